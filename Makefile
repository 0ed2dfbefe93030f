# blockjobd: the commands a person types.  Everything else is meson's.
#
#   make demo     install what is missing, build, show the main job at work
#   make check    install what is missing, build, run all tests
#   make help     the rest

SHELL      := /bin/bash
PYTHON     := /usr/bin/python3
BUILD      := build
prefix     ?= /usr/local
DESTDIR    ?=
JOBS       := $(shell nproc)
PYTEST     := $(PYTHON) -m pytest -q -p no:cacheprovider
IOTESTS    ?= iotests
FUZZ_SECONDS ?= 20

# Debian's names of what is needed, by what for.
PACKAGES_BUILD := gcc libc6-dev make meson ninja-build pkg-config python3 \
                  libjansson-dev libevent-dev libglib2.0-dev libedit-dev \
                  zlib1g-dev libzstd-dev libgnutls28-dev libnbd-dev
PACKAGES_DEMO  := e2fsprogs qemu-utils python3-libnbd
PACKAGES_TEST  := $(PACKAGES_DEMO) python3-pytest libnbd-bin openssl \
                  qemu-system-x86 fio clang libclang-rt-14-dev
PACKAGES_LONG  := $(PACKAGES_TEST) golang-go golang-github-digitalocean-go-qemu-dev

.PHONY: help build demo check check-unit check-iotests check-reference \
        check-asan check-tsan check-long fuzz bench install clean docs

help:
	@sed -n 's/^#   //p' Makefile
	@echo 'make build            $(BUILD)/server/blockjobd, $(BUILD)/tools/blockjobctl'
	@echo 'make install          prefix=$(prefix) DESTDIR=$(DESTDIR)'
	@echo 'make check-unit       unit and golden tests only'
	@echo 'make check-iotests    scenarios only; IOTESTS="iotests/test_jobs.py -k pause"'
	@echo 'make check-reference  the same scenarios against the installed QEMU'
	@echo 'make check-asan       unit tests and scenarios under Address/UBSanitizer'
	@echo 'make check-tsan       unit tests and scenarios under ThreadSanitizer'
	@echo 'make check-long       what takes more than a quarter of an hour'
	@echo 'make fuzz             each fuzz target for FUZZ_SECONDS=$(FUZZ_SECONDS)'
	@echo 'make bench            ratios against the installed qemu-storage-daemon'
	@echo 'make docs             rewrite the generated pages of docs/'
	@echo 'make clean            remove the build folders'

# ---- packages ----------------------------------------------------------------

# $(call need,packages): install those that dpkg does not know as installed.
define need
	@missing=$$(for p in $(1); do \
	    dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null | \
	        grep -qx installed || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	    echo "Installing:" $$missing; \
	    if [ $$(id -u) -eq 0 ]; then as=; else as=sudo; fi; \
	    $$as apt-get update -q >/dev/null && \
	    $$as env DEBIAN_FRONTEND=noninteractive \
	        apt-get install -y -q --no-install-recommends $$missing \
	        >/dev/null || { echo 'make: apt-get failed' >&2; exit 1; }; \
	fi
endef

.PHONY: need-build need-demo need-test need-long
need-build:
	$(call need,$(PACKAGES_BUILD))
need-demo:
	$(call need,$(PACKAGES_BUILD) $(PACKAGES_DEMO))
need-test:
	$(call need,$(PACKAGES_BUILD) $(PACKAGES_TEST))
need-long:
	$(call need,$(PACKAGES_BUILD) $(PACKAGES_LONG))

# ---- building -----------------------------------------------------------------

# $(call setup,folder,options)
define setup
	@[ -f $(1)/build.ninja ] || meson setup $(1) $(2) >$(1).log 2>&1 || \
	    { cat $(1).log; exit 1; }
	@rm -f $(1).log
	@ninja -C $(1) -j$(JOBS) --quiet
endef

build: need-build
	$(call setup,$(BUILD),--prefix=$(prefix) -Db_ndebug=true)

install: build
	@meson configure $(BUILD) --prefix=$(prefix)
	@DESTDIR=$(DESTDIR) meson install -C $(BUILD) --quiet

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan $(BUILD)-fuzz

docs: build
	@ninja -C $(BUILD) --quiet docs

# ---- showing and testing ----------------------------------------------------------

demo: need-demo build
	@$(PYTHON) tools/demo.py --build $(BUILD)

check: need-test build
	@meson test -C $(BUILD) --no-rebuild --print-errorlogs --suite unit --suite golden
	@$(PYTEST) $(IOTESTS) --blockjobd $(BUILD)/server/blockjobd --blockjobctl $(BUILD)/tools/blockjobctl

check-unit: need-test build
	@meson test -C $(BUILD) --no-rebuild --print-errorlogs --suite unit --suite golden

check-iotests: need-test build
	@$(PYTEST) $(IOTESTS) --blockjobd $(BUILD)/server/blockjobd --blockjobctl $(BUILD)/tools/blockjobctl

check-reference: need-test
	@$(PYTEST) $(IOTESTS) --server qemu --model-seeds 40

ASAN_OPTIONS_USED := detect_leaks=1:abort_on_error=1:allocator_may_return_null=1
UBSAN_OPTIONS_USED := print_stacktrace=1:halt_on_error=1
TSAN_OPTIONS_USED := halt_on_error=1:second_deadlock_stack=1:suppressions=$(CURDIR)/tests/tsan.supp

check-asan: need-test
	$(call setup,$(BUILD)-asan,-Db_sanitize=address$(,)undefined -Db_lundef=false)
	@ASAN_OPTIONS=$(ASAN_OPTIONS_USED) UBSAN_OPTIONS=$(UBSAN_OPTIONS_USED) \
	    meson test -C $(BUILD)-asan --no-rebuild --print-errorlogs --suite unit -t 5
	@ASAN_OPTIONS=$(ASAN_OPTIONS_USED) UBSAN_OPTIONS=$(UBSAN_OPTIONS_USED) \
	    IOTESTS_TIME_SCALE=4 $(PYTEST) $(IOTESTS) --blockjobd $(BUILD)-asan/server/blockjobd --blockjobctl $(BUILD)-asan/tools/blockjobctl --model-seeds 40

# What one client does step by step, or a server that kills itself, has little
# to show here and takes an hour: `make check-tsan TSAN_LEFT_OUT=` runs it, too.
TSAN_LEFT_OUT := blkdebug broken_images cmdline_* commit_refusals compat_* create \
    drive_options drive_texts drivers graph_model graph_random graph_random_changes \
    graph_refusals hmp_block image_tool io_options job_kill machine_qom media_trays \
    mirror_refusals permissions qcow2_debug qcow2_interop qcow2_options qemu_io_transcript \
    qmp_arguments reference rows_* schema stream_refusals transcripts*

check-tsan: need-test
	$(call setup,$(BUILD)-tsan,-Db_sanitize=thread -Db_lundef=false)
	@TSAN_OPTIONS=$(TSAN_OPTIONS_USED) \
	    meson test -C $(BUILD)-tsan --no-rebuild --print-errorlogs --suite unit -t 5
	@TSAN_OPTIONS=$(TSAN_OPTIONS_USED) \
	    IOTESTS_TIME_SCALE=4 $(PYTEST) $(IOTESTS) --blockjobd $(BUILD)-tsan/server/blockjobd --blockjobctl $(BUILD)-tsan/tools/blockjobctl --model-seeds 40 \
	    $(TSAN_LEFT_OUT:%=--ignore-glob='*/test_%.py')

check-long: need-long build
	@meson configure $(BUILD) -Dtest_seed= && ninja -C $(BUILD) --quiet
	@meson test -C $(BUILD) --no-rebuild --print-errorlogs --suite unit --repeat 10 -t 5
	@meson test -C $(BUILD) --no-rebuild --print-errorlogs --suite long
	@$(PYTEST) $(IOTESTS) --blockjobd $(BUILD)/server/blockjobd --blockjobctl $(BUILD)/tools/blockjobctl --seeds 100 --model-seeds 3000

fuzz: need-test
	$(call setup,$(BUILD)-fuzz,--native-file fuzz/clang.ini -Dfuzz=true -Db_sanitize=address$(,)undefined -Db_lundef=false)
	@$(PYTHON) fuzz/run.py --build $(BUILD)-fuzz --seconds $(FUZZ_SECONDS)

bench: need-test build
	@$(PYTHON) bench/run.py --build $(BUILD)

, := ,
