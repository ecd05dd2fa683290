# facelatch: `make help` lists what can be made.
.PHONY: help deps build demo test lfw fusion crash bench models facenet facenet-test lint deny clean

CARGO ?= cargo

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

deps: ## install what the build needs (libclang, for the bindings to Video4Linux)
	@./.ci/deps

build: deps ## the program, target/release/facelatch
	$(CARGO) build --release

demo: build ## the main job on real pictures: no camera, no GPIO, no network
	./target/release/facelatch demo --pictures tests/data --models models --out target/demo

test: deps ## every test that needs no special machine
	$(CARGO) test --release

lfw: deps ## accuracy and thresholds on Labeled Faces in the Wild, if it lies beside the checkout
	FACELATCH_LFW=full $(CARGO) test --release --test it lfw -- --nocapture

fusion: deps ## what fusing pictures and frames does to distances, measured; prints the thresholds of models.toml
	FACELATCH_LFW=full $(CARGO) test --release --test it fusion -- --nocapture --test-threads 1

crash: deps ## kill -9 during enrolment, 100 times
	FACELATCH_CRASH_ROUNDS=100 $(CARGO) test --release --test it crash -- --nocapture

bench: deps ## time per stage
	$(CARGO) bench --bench stages

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

clean: ## remove everything that was built
	$(CARGO) clean
