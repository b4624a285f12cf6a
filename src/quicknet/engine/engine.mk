# The engine without Python. From the repository's Makefile, or by itself: make -f src/quicknet/engine/engine.mk engine
#
#   engine        $(ENGINE_OUT)/libquicknet.a, quicknet.h, resize.h and the example program `classify`
#   engine-wasm   $(ENGINE_OUT)/quicknet.wasm with its loader, and quicknet-plain.wasm, which needs no SIMD (needs clang
#                 and wasm-ld; Binaryen's wasm-opt, where it is installed, makes them 9% smaller at the same speed)
#
#   ISA=portable  plain C only: any CPU, and the smallest library
#   THREADS=0     without threads, for systems that have none
#   WASM_RESIZE=0  modules of 26 and 23 KB, for images of the network's size only: `logits`, not `classify`
#   CC=...        any C11 compiler, also a cross compiler (with AR=...)
#   WERROR=-Werror  makes warnings errors, as the tests do; another compiler may know more of them
ENGINE_DIR := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
ENGINE_OUT ?= build/engine
ENGINE_CFLAGS ?= -O3
ENGINE_WARNINGS := -Wall -Wextra $(WERROR)

ENGINE_DEFINES := $(if $(filter portable,$(ISA)),-DQN_PORTABLE_ONLY) $(if $(filter 0,$(THREADS)),-DQN_NO_THREADS)
ENGINE_COMPILE := $(CC) -std=c11 $(ENGINE_WARNINGS) $(ENGINE_CFLAGS) $(ENGINE_DEFINES) -I $(ENGINE_DIR)/csrc
ENGINE_NAMES := $(filter-out fuzz,$(basename $(notdir $(wildcard $(ENGINE_DIR)/csrc/*.c))))
ENGINE_OBJECTS := $(ENGINE_NAMES:%=$(ENGINE_OUT)/%.o)

.PHONY: engine engine-wasm
engine: $(ENGINE_OUT)/libquicknet.a $(ENGINE_OUT)/quicknet.h $(ENGINE_OUT)/resize.h $(ENGINE_OUT)/classify

$(ENGINE_OUT) $(ENGINE_OUT)/wasm $(ENGINE_OUT)/plain:
	mkdir -p $@

# The settings that objects were made with: made again where they differ.
$(ENGINE_OUT)/settings: FORCE | $(ENGINE_OUT)
	@echo '$(ENGINE_COMPILE)' | cmp -s - $@ || echo '$(ENGINE_COMPILE)' > $@
.PHONY: FORCE
FORCE:

$(ENGINE_OUT)/%.o: $(ENGINE_DIR)/csrc/%.c $(wildcard $(ENGINE_DIR)/csrc/*.h) $(ENGINE_OUT)/settings
	$(ENGINE_COMPILE) -c $< -o $@

$(ENGINE_OUT)/libquicknet.a: $(ENGINE_OBJECTS)
	$(AR) rcs $@ $^

$(ENGINE_OUT)/%.h: $(ENGINE_DIR)/csrc/%.h | $(ENGINE_OUT)
	cp $< $@

$(ENGINE_OUT)/classify: $(ENGINE_DIR)/example/classify.c $(ENGINE_OUT)/libquicknet.a
	$(ENGINE_COMPILE) $< $(ENGINE_OUT)/libquicknet.a $(if $(filter 0,$(THREADS)),,-pthread) -o $@

# Speed where time goes, size elsewhere: the whole is 33 KB, 6 of them for resizing. -Os leaves wasm.c's loops as -O2
# makes them, by their own pragmas; -flto made the whole larger.
WASM_CLANG ?= clang
WASM_LD ?= wasm-ld
WASM_OPT ?= $(shell command -v wasm-opt)
WASM_COMPILE := $(WASM_CLANG) --target=wasm32 -std=c11 $(ENGINE_WARNINGS) -mbulk-memory -nostdlib \
	-I $(ENGINE_DIR)/js/include -I $(ENGINE_DIR)/csrc -DQN_NO_THREADS
WASM_SMALL := bounds coding colour container engine filter isa plan read resize shape sparse threads
WASM_FAST := sha256 wasm
WASM_PLAIN := sha256 portable
WASM_OBJECTS := $(WASM_SMALL:%=$(ENGINE_OUT)/wasm/%.o) $(WASM_FAST:%=$(ENGINE_OUT)/wasm/%.o) $(ENGINE_OUT)/wasm/module.o
WASM_PLAIN_OBJECTS := $(patsubst %,$(ENGINE_OUT)/plain/%.o,$(WASM_SMALL) $(WASM_PLAIN) module)
WASM_EXPORTS := qn_check qn_read_to qn_strerror qn_memory qn_open qn_run \
	$(if $(filter 0,$(WASM_RESIZE)),,qn_prepare qn_prepare_memory)

engine-wasm: $(ENGINE_OUT)/quicknet.wasm $(ENGINE_OUT)/quicknet-plain.wasm $(patsubst %,$(ENGINE_OUT)/%.mjs,quicknet decode benchmark)

$(WASM_FAST:%=$(ENGINE_OUT)/wasm/%.o): $(ENGINE_OUT)/wasm/%.o: $(ENGINE_DIR)/csrc/%.c | $(ENGINE_OUT)/wasm
	$(WASM_COMPILE) -msimd128 -Os -c $< -o $@
$(WASM_SMALL:%=$(ENGINE_OUT)/wasm/%.o): $(ENGINE_OUT)/wasm/%.o: $(ENGINE_DIR)/csrc/%.c | $(ENGINE_OUT)/wasm
	$(WASM_COMPILE) -msimd128 -Oz -c $< -o $@
$(ENGINE_OUT)/wasm/module.o: $(ENGINE_DIR)/js/module.c | $(ENGINE_OUT)/wasm
	$(WASM_COMPILE) -msimd128 -Oz -c $< -o $@
# Without SIMD, for few: all small.
$(ENGINE_OUT)/plain/module.o: $(ENGINE_DIR)/js/module.c | $(ENGINE_OUT)/plain
	$(WASM_COMPILE) -Oz -c $< -o $@
$(ENGINE_OUT)/plain/%.o: $(ENGINE_DIR)/csrc/%.c | $(ENGINE_OUT)/plain
	$(WASM_COMPILE) -Oz -c $< -o $@
$(WASM_OBJECTS) $(WASM_PLAIN_OBJECTS): $(wildcard $(ENGINE_DIR)/csrc/*.h $(ENGINE_DIR)/js/include/*.h)

# The stack is first in memory: too deep a call traps.
$(ENGINE_OUT)/quicknet.wasm: $(WASM_OBJECTS)
$(ENGINE_OUT)/quicknet-plain.wasm: $(WASM_PLAIN_OBJECTS)
$(ENGINE_OUT)/%.wasm:
	$(WASM_LD) --no-entry --strip-all --gc-sections --stack-first -z stack-size=131072 \
	  $(WASM_EXPORTS:%=--export=%) $^ -o $@
	$(if $(WASM_OPT),$(WASM_OPT) -Oz --converge --enable-simd --enable-bulk-memory $@ -o $@)

$(ENGINE_OUT)/%.mjs: $(ENGINE_DIR)/js/%.mjs | $(ENGINE_OUT)
	cp $< $@
