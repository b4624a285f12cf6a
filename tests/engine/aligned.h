/* Memory for qn_open: Windows' C library has no aligned_alloc. */
#include <stdlib.h>
#ifdef _WIN32
#include <malloc.h>
#define aligned_alloc(alignment, size) _aligned_malloc(size, alignment)
#define aligned_free _aligned_free
#else
#define aligned_free free
#endif
