// Vectors of the widest kind that the compiler targets, by GCC's and clang's vector extension:
// one source serves AVX-512, AVX2, NEON and plain SSE2. No -ffast-math anywhere: a NaN must
// travel from a weight to the loss, where training looks for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>
#include <type_traits>
#if defined(__AVX__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace quicknet {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kRegisters = 32;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kRegisters = 32;
#else
constexpr int kVectorBytes = 16, kRegisters = 16;
#endif

template <class T>
struct VectorOf;
// may_alias and the element's own alignment make a plain dereference an unaligned load.
template <>
struct VectorOf<float> {
    typedef float type __attribute__((vector_size(kVectorBytes), aligned(alignof(float)), may_alias));
};
template <>
struct VectorOf<double> {
    typedef double type __attribute__((vector_size(kVectorBytes), aligned(alignof(double)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;

template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

// Channels are stored in multiples of this (at least 4: the matrix products take rows by 4 or 2).
template <class T>
constexpr int kChannelUnit = kLanes<T> < 4 ? 4 : kLanes<T>;

template <class T>
inline Vector<T> load(const T *p) {
    return *reinterpret_cast<const Vector<T> *>(p);
}
template <class T>
inline void store(T *p, Vector<T> v) {
    *reinterpret_cast<Vector<T> *>(p) = v;
}

// Writes past the caches: for results of tens of megabytes that are next read from memory anyway,
// 3-4% of a whole step. p aligned to the vector; `stream_fence` before another thread reads it.
template <class T>
inline void stream(T *p, Vector<T> v) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i *>(p), (__m512i)v);
#elif defined(__AVX__)
    _mm256_stream_si256(reinterpret_cast<__m256i *>(p), (__m256i)v);
#else
    store(p, v);
#endif
}
inline void stream_fence() {
#if defined(__AVX__)
    _mm_sfence();
#endif
}

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

template <class T>
inline int padded_channels(int64_t channels) {
    return int(round_up(channels, kChannelUnit<T>));
}

// Distance between pixels in scratch buffers. A power of two would put a column of pixels into
// the same few sets of the first-level cache.
template <class T>
inline int64_t pixel_pitch(int64_t channels) {
    const int64_t bytes = channels * int64_t(sizeof(T));
    return bytes % 1024 == 0 ? channels + 64 / int64_t(sizeof(T)) : channels;
}

// Calls body(constant<B>, channel) so that blocks of 4, 2 and 1 vectors cover all channels:
// a block's per-channel constants then stay in registers while it runs over the pixels.
template <class T, class Body>
inline void for_channel_blocks(int channels, Body body) {
    constexpr int lanes = kLanes<T>;
    int c = 0;
    for (; c + 4 * lanes <= channels; c += 4 * lanes) body(std::integral_constant<int, 4>{}, c);
    for (; c + 2 * lanes <= channels; c += 2 * lanes) body(std::integral_constant<int, 2>{}, c);
    for (; c < channels; c += lanes) body(std::integral_constant<int, 1>{}, c);
}

// The same by blocks of 2 and 1, for bodies that need more registers a vector.
template <class T, class Body>
inline void for_channel_pairs(int channels, Body body) {
    constexpr int lanes = kLanes<T>;
    int c = 0;
    for (; c + 2 * lanes <= channels; c += 2 * lanes) body(std::integral_constant<int, 2>{}, c);
    for (; c < channels; c += lanes) body(std::integral_constant<int, 1>{}, c);
}

// Asks for large pages under memory that is about to be filled: streams of tens of megabytes
// through 4 KB pages miss the translation buffer all the time.
inline void advise_large_pages(void *p, size_t bytes) {
#if defined(MADV_HUGEPAGE)
    constexpr uintptr_t large = uintptr_t(2) << 20;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(p) + large - 1) & ~(large - 1);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(p) + bytes) & ~(large - 1);
    if (begin < end) madvise(reinterpret_cast<void *>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)p;
    (void)bytes;
#endif
}

// Scratch memory of one thread, kept between calls: fresh pages cost more than the work on them.
// Each `take` hands out the whole of it anew.
class Arena {
 public:
    ~Arena() { std::free(base_); }

    // Gives a pointer its count of elements (64-byte aligned); the content is arbitrary.
    struct Request {
        template <class T>
        Request(T **to, int64_t count) : pointer(to), bytes(padded(size_t(count) * sizeof(T))) {}
        void *pointer;
        size_t bytes;
    };
    void take(std::initializer_list<Request> requests) {
        size_t bytes = 0;
        for (const auto &r : requests) bytes += r.bytes;
        reserve(bytes);
        char *next = base_;
        for (const auto &r : requests) {
            std::memcpy(r.pointer, &next, sizeof(next));
            next += r.bytes;
        }
    }

 private:
    // 192 spare bytes: requests of 2^n bytes would otherwise start in the same cache sets.
    static size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64 + 192; }

    void reserve(size_t bytes) {
        if (bytes <= size_) return;
        std::free(base_);
        constexpr size_t huge_page = size_t(2) << 20;
        size_ = (bytes + huge_page - 1) / huge_page * huge_page;
        base_ = static_cast<char *>(std::aligned_alloc(huge_page, size_));
        if (base_ == nullptr) {
            size_ = 0;
            throw std::bad_alloc();
        }
        advise_large_pages(base_, size_);  // a pixel column touches a small page per pixel
        std::memset(base_, 0, size_);  // stale floats of other types could be slow denormals
    }

    char *base_ = nullptr;
    size_t size_ = 0;
};

// What a call's threads share, taken by the thread that calls; and what each of them has to itself.
inline Arena &shared_arena() {
    static thread_local Arena arena;
    return arena;
}
inline Arena &thread_arena() {
    static thread_local Arena arena;
    return arena;
}

}  // namespace quicknet
