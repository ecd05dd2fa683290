# facelatch: `make help` lists what can be made.
.PHONY: help deps build demo test lfw crash bench models lint deny clean

CARGO ?= cargo

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

deps: ## install what the build needs (libclang, for the bindings to Video4Linux)
	@./.ci/deps

build: deps ## the program, target/release/facelatch
	$(CARGO) build --release

demo: build ## the main job on real pictures: no camera, no GPIO, no network
	./target/release/facelatch demo --pictures tests/data --models models --out target/demo

test: deps ## every test that needs no special machine
	$(CARGO) test --release

LFW ?= ../shared/data/lfw-dev
lfw: build ## accuracy and thresholds on Labeled Faces in the Wild (LFW=DIR), if it lies beside the checkout
	@if [ ! -f $(LFW)/pairs.txt ]; then echo "SKIPPED: $(LFW) is not there"; exit 0; fi; \
	for precision in w8 int8; do \
		./target/release/facelatch eval --models models --embedder dlib --precision $$precision \
			--pairs $(LFW)/pairs.txt --images $(LFW) --plots target/eval/$$precision || exit 1; \
	done

crash: deps ## kill -9 during enrolment, 100 times
	FACELATCH_CRASH_ROUNDS=100 $(CARGO) test --release --test it crash -- --nocapture

bench: deps ## time per stage
	$(CARGO) bench --bench stages

models: ## export the models anew and compare them with the committed ones, byte for byte
	./models/export/check.sh

lint: deps ## formatting and clippy
	$(CARGO) fmt --check
	$(CARGO) clippy --release --all-targets -- -D warnings

deny: ## licences, sources and advisories of the dependencies
	./.ci/deny

clean: ## remove everything that was built
	$(CARGO) clean
