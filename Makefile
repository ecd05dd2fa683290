# facelatch: `make help` lists what can be made.
.PHONY: help deps build demo test lfw fusion hidden populations events crash mqtt browser viewers bench door peers models facenet facenet-test lint deny clean
.PHONY: deb-amd64 deb-arm64 deb-armhf lintian unit-security vm-systemd test-arm64 test-armhf pi3 arm-cost

CARGO ?= cargo

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

deps: ## install what the build needs (libclang, for the bindings to Video4Linux)
	@./.ci/deps

build: deps ## the program, target/release/facelatch
	$(CARGO) build --release

demo: build ## the main job on real pictures: no camera, no GPIO, no network
	./target/release/facelatch demo --pictures tests/data --models models --out target/demo

test: deps ## every test that needs no special machine
	$(CARGO) test --release -p facelatch -p facelatch-fence

LFW ?= ../shared/data/lfw-dev
lfw: build ## accuracy and thresholds on Labeled Faces in the Wild (LFW=DIR, EMBEDDER=NAME), if it lies beside the checkout
	@if [ ! -f $(LFW)/pairs.txt ]; then echo "SKIPPED: $(LFW) is not there"; exit 0; fi; \
	for precision in w8 int8; do \
		./target/release/facelatch eval --models models --embedder $(or $(EMBEDDER),dlib) --precision $$precision \
			--pairs $(LFW)/pairs.txt --images $(LFW) --plots target/eval/$$precision || exit 1; \
	done

fusion: deps ## what fusing pictures and frames does to distances, measured; prints the thresholds of models.toml
	FACELATCH_LFW=full FACELATCH_EMBEDDER=$(EMBEDDER) $(CARGO) test --release --test it fusion -- --nocapture --test-threads 1

hidden: deps ## faces cut by the edge, on their side, masked, in half shadow, behind others: what is refused or found; makes models/*-hidden.npy anew (FACELATCH_EMBEDDER=NAME: one only)
	FACELATCH_LFW=full $(CARGO) test --release --test it hidden -- --nocapture --test-threads 1

DATA ?= ../shared/data
populations: build ## what the limits do to each group of people and who is let in, on DATA=../shared/data; ten minutes
	./benches/populations $(DATA)

events: deps ## a store with a million events of an older program: memory, pauses, how long answers take
	FACELATCH_EVENTS=1000000 $(CARGO) test --release --test it events:: -- --nocapture --test-threads 1

crash: deps ## kill -9 while pictures are enrolled and events recorded, 100 times
	FACELATCH_CRASH_ROUNDS=100 $(CARGO) test --release --test it crash -- --nocapture

mqtt: deps ## the broker: a real mosquitto, away, hostile, forbidding
	@[ -x /usr/sbin/mosquitto ] && command -v mosquitto_sub >/dev/null && command -v openssl >/dev/null || ./.ci/install mosquitto mosquitto-clients openssl
	FACELATCH_MOSQUITTO=required $(CARGO) test --release --test it mosquitto

browser: build ## the live page in a real browser, Chromium; screenshots in target/browser
	@command -v chromedriver chromium python3 >/dev/null || ./.ci/install chromium chromium-driver python3
	./tests/browser/page.py target/release/facelatch

viewers: deps ## what viewers of the page, and clients that mean harm, cost the door
	$(CARGO) bench --bench page

bench: deps ## time per stage
	$(CARGO) bench --bench stages

door: deps ## a minute at a door, in processor time by stage and phase
	$(CARGO) bench --bench door
	$(CARGO) bench --bench door -- --format mjpeg

peers: build ## facelatch beside others on the same pictures (PyPI; compiles dlib, ten processor minutes; PEERS= beside onnxruntime only)
	./benches/peers/run

models: ## export the models anew and compare them with the committed ones, byte for byte
	./models/export/check.sh

IMAGES ?= tests/data
facenet: ## download FaceNet's weights (112 MB) and make models/facenet.onnx of them; IMAGES=DIR: faces to measure ranges on
	mkdir -p target/models
	./models/export/python models/export/facenet.py --checkpoint target/models/20180402-114759-vggface2.pt --download \
		--images $(IMAGES) --models models --out models

facenet-test: deps ## FaceNet's export and the program on it, with random weights: no download
	./models/export/python models/export/facenet_test.py --images tests/data --models models --out target/models/facenet-test
	$(CARGO) test --release --test it facenet -- --nocapture

lint: deps ## formatting and clippy
	$(CARGO) fmt --check
	$(CARGO) clippy --release --all-targets -- -D warnings

deny: ## licences, sources and advisories of the dependencies
	./.ci/deny

deb-amd64: ## the Debian package for x86_64, in target/debian
	./cross/package amd64

# The proofs take the profile that is built already, not the one for boards, whose link-time optimisation takes long.
lintian: ## Debian's check of the package
	FACELATCH_PROFILE=release ./cross/package amd64
	./.ci/lintian target/debian/facelatch_*_amd64.deb

unit-security: ## how exposed the service is: at most 1.5 of 10
	./.ci/unit-security

vm-systemd: ## the package in a virtual machine with systemd, camera and GPIO (x86_64)
	FACELATCH_PROFILE=release ./cross/package amd64
	$(CARGO) build --release --example feed
	./tests/vm/systemd target/debian/facelatch_*_amd64.deb target/release/examples/feed
deb-arm64: ## the package for 64-bit boards
	./cross/package arm64

deb-armhf: ## the package for 32-bit systems (ARMv7)
	./cross/package armhf

# One profile for all that is only tested, so that the dependencies are built once; the packages people install are linked anew.
test-arm64: ## the tests as 64-bit ARM programs, under qemu-user
	./cross/test arm64

test-armhf: ## the tests as 32-bit ARM programs, under qemu-user
	./cross/test armhf

pi3: ## the package's program on an emulated Raspberry Pi 3B, its relay pin read from outside
	FACELATCH_PROFILE=dist ./cross/package arm64
	./cross/build arm64 build --profile dist --example feed
	eval "$$(./cross/build arm64 env)" && ./tests/vm/pi3 target/debian/facelatch_*_arm64.deb "$$CARGO_TARGET_DIR/$$target/dist/examples/feed"

arm-cost: ## instructions per stage on a Raspberry Pi 4 and 5, under qemu-user
	./cross/build arm64 build --profile dist --example cost
	eval "$$(./cross/build arm64 env)" && ./cross/arm-cost/measure "$$CARGO_TARGET_DIR/$$target/dist/examples/cost"

clean: ## remove everything that was built
	$(CARGO) clean
