/* x86_depthwise.h for vectors of 256 bits: functions d256_... */
#define D_NAME(name) d256_##name
#define D_BYTES 32
#define V __m256i
#define D_LOAD(p) _mm256_load_si256((const __m256i *)(const void *)(p))
#define D_STORE(p, v) _mm256_store_si256((__m256i *)(void *)(p), v)
#define D_ADD _mm256_add_epi16
#define D_ADDS _mm256_adds_epi16
#define D_MADDUBS _mm256_maddubs_epi16
#define D_MULHRS _mm256_mulhrs_epi16
#define D_LOW _mm256_unpacklo_epi8
#define D_HIGH _mm256_unpackhi_epi8
#define D_PACK _mm256_packus_epi16
#define D_MIN _mm256_min_epu8
#define D_SET8 _mm256_set1_epi8
#define D_SET16 _mm256_set1_epi16
#include "x86_depthwise.h"
