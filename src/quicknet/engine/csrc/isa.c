/* Which kernels this CPU runs. No state: asked at every qn_open. */
#include "kernels.h"
#include "quicknet.h"

#if defined(QN_PORTABLE_ONLY)
#elif defined(__x86_64__) || defined(_M_X64)
#define QN_X86
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__)
#define QN_ARM
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#elif defined(__wasm_simd128__)
#define QN_WASM_SIMD
#endif

#ifdef QN_X86
static void cpuid(uint32_t leaf, uint32_t r[4]) {
#if defined(_MSC_VER)
    int out[4];
    __cpuidex(out, (int)leaf, 0);
    for (int i = 0; i < 4; i++) r[i] = (uint32_t)out[i];
#else
    __cpuid_count(leaf, 0, r[0], r[1], r[2], r[3]);
#endif
}

/* The registers that the system saves when it switches threads: XCR0. */
static uint32_t saved_registers(void) {
#if defined(_MSC_VER)
    return (uint32_t)_xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
#endif
}

static int cpu_has(int isa) {
    enum { OSXSAVE = 1 << 27, AVX2 = 1 << 5, F = 1 << 16, DQ = 1 << 17, VNNI = 1 << 11 };
    const uint32_t bw_vl = 3u << 30, ymm = 0x06, zmm = 0xe6;
    uint32_t r[4];
    cpuid(0, r);
    if (r[0] < 7) return 0;
    cpuid(1, r);
    if (!(r[2] & OSXSAVE)) return 0;
    uint32_t saved = saved_registers();
    cpuid(7, r);
    if (isa == QN_AVX2) return (r[1] & AVX2) && (saved & ymm) == ymm;
    return (r[1] & AVX2) && (r[1] & F) && (r[1] & DQ) && (r[1] & bw_vl) == bw_vl && (r[2] & VNNI) &&
           (saved & zmm) == zmm;
}
#endif

#if defined(QN_ARM) && defined(QN_HAS_NEON_DOT)
/* Elsewhere than on Linux, what the compiler was told: all of Apple's have it. */
static int has_dot_product(void) {
#if defined(__ARM_FEATURE_DOTPROD)
    return 1;
#elif defined(__linux__)
    return getauxval(AT_HWCAP) >> 20 & 1; /* HWCAP_ASIMDDP, which older headers lack */
#else
    return 0;
#endif
}
#endif

const qn_kernels *qn_find_kernels(int isa) {
#ifdef QN_X86
    if ((isa == QN_BEST || isa == QN_AVX512VNNI) && cpu_has(QN_AVX512VNNI)) return &qn_avx512vnni;
    if ((isa == QN_BEST || isa == QN_AVX2) && cpu_has(QN_AVX2)) return &qn_avx2;
#elif defined(QN_ARM)
#ifdef QN_HAS_NEON_DOT
    if ((isa == QN_BEST || isa == QN_NEON_DOT) && has_dot_product()) return &qn_neon_dot;
#endif
    if (isa == QN_BEST || isa == QN_NEON) return &qn_neon;
#endif
#ifdef QN_WASM_SIMD /* where it runs at all, it has SIMD: the plain kernels stay out of the module */
    return isa == QN_BEST || isa == QN_WASM ? &qn_wasm : NULL;
#else
    return isa == QN_BEST || isa == QN_PORTABLE ? &qn_portable : NULL;
#endif
}
