# SPDX-License-Identifier: MIT
"""Words for mirrors: start one, bring it to its ends."""

from .jobs import Job


def mirror_arguments(device, target, job_id='mirror', sync='full', **options):
    return dict({'job-id': job_id, 'device': device, 'target': target,
                 'sync': sync},
                **{k.replace('_', '-'): v for k, v in options.items()})


class Mirror(Job):
    """The Job of a mirror."""

    def ready(self, **kwargs):
        """Follow it until it is ready."""
        return self.wait('BLOCK_JOB_READY', **kwargs)

    def complete(self):
        """Let the target take the source's place; to the end."""
        self.server.qmp('block-job-complete', device=self.id)
        return self.finish()

    def keep(self):
        """End it, once it is ready, without a change of places."""
        self.server.qmp('block-job-cancel', device=self.id)
        return self.finish()

    def drop(self):
        """Cancel it by force, whatever its state."""
        self.server.qmp('block-job-cancel', device=self.id, force=True)
        return self.gone()

    def gone(self):
        """Wait for its end, whichever, and dismiss it."""
        self.wait('concluded')
        self.server.qmp('job-dismiss', id=self.id)
        return self.wait('null')


def start(server, command, device, target, **options):
    """auto-dismiss is off, unless the test says otherwise."""
    options.setdefault('auto_dismiss', False)
    arguments = mirror_arguments(device, target, **options)
    server.qmp(command, arguments)
    return Mirror(server, arguments['job-id'])


def drive_mirror(server, device, target, **options):
    return start(server, 'drive-mirror', device, target, **options)


def blockdev_mirror(server, device, target, **options):
    return start(server, 'blockdev-mirror', device, target, **options)
