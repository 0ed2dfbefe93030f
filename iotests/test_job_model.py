# SPDX-License-Identifier: MIT
"""Random jobs on a disk that a guest writes to; see job_actions.py.

A seed that fails is run again by `--model-seeds 1 --first-seed N`.  `make
check-long` runs thousands.
"""

import random

import pytest

from .job_actions import Actions
from .nbd import NbdError
from .qmp import QmpClosed
from .server import ServerFailed

N_STEPS = 5


@pytest.mark.timeout(120)
def test_jobs_keep_their_promises(start_server, images, guest_on,
                                  model_seed, request):
    rnd = random.Random(model_seed)
    model = Actions(start_server, images, guest_on, rnd)
    try:
        for _ in range(N_STEPS):
            model.step()
        model.guest.stop()
    except (ServerFailed, QmpClosed, NbdError, OSError):
        if not model.server.is_qemu or model.server.running():
            raise
        pytest.skip('QEMU 7.2 has crashed')
    finally:
        if model.server.is_qemu:
            model.server.expect_exit = None     # its heap may be broken
        model.server.log.extend(['--- the model did:'] + model.actions)
