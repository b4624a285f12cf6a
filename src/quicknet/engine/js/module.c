/* What the WebAssembly module needs besides the engine: memory that only grows, and a C library's four
 * functions. With bulk memory instructions the copies are one instruction each. */
#include <stdint.h>
#include <string.h>

#define EXPORT(name) __attribute__((export_name(#name)))

extern uint8_t __heap_base; /* from the linker: where the static data ends */
enum { PAGE = 65536 };

/* The module's only state: where the free memory begins. */
static uintptr_t next_free;

/* Returns `size` bytes aligned to 64, or 0 where the memory can't grow. There is no way to give them back: a new
 * model takes a new instance. */
EXPORT(reserve) uintptr_t reserve(uintptr_t size) {
    uintptr_t at = ((next_free ? next_free : (uintptr_t)&__heap_base) + 63) / 64 * 64, end = at + size;
    uintptr_t have = (uintptr_t)__builtin_wasm_memory_size(0) * PAGE;
    if (end < at) return 0;
    if (end > have && __builtin_wasm_memory_grow(0, (end - have + PAGE - 1) / PAGE) == (uintptr_t)-1) return 0;
    next_free = end;
    return at;
}

void *memcpy(void *restrict to, const void *restrict from, size_t size) { return __builtin_memcpy(to, from, size); }
void *memmove(void *to, const void *from, size_t size) { return __builtin_memmove(to, from, size); }
void *memset(void *to, int byte, size_t size) { return __builtin_memset(to, byte, size); }

int memcmp(const void *a, const void *b, size_t size) {
    const uint8_t *x = a, *y = b;
    for (; size > 0; size--, x++, y++)
        if (*x != *y) return *x < *y ? -1 : 1;
    return 0;
}
