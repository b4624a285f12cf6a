// The C interface that `native.py` calls: float and double forms of each function, and the
// library's own check. Sizes travel as one array of int64 in the order of the structs.
#include <cmath>
#include <vector>

#include "output.h"
#include "separable.h"
#include "separable_backward.h"
#include "stem.h"

namespace quicknet {
namespace {

// Calls body(constant<K>) for the kernel sizes of the family; false for any other.
template <class Body>
bool with_kernel(int64_t kernel, Body body) {
  switch (kernel) {
    case 3: body(std::integral_constant<int, 3>{}); return true;
    case 5: body(std::integral_constant<int, 5>{}); return true;
    case 7: body(std::integral_constant<int, 7>{}); return true;
    default: return false;
  }
}

Separable separable_shape(const int64_t* n) { return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8]}; }
Stem stem_shape(const int64_t* n) { return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8]}; }

// Calls body(E{}) with the elements that the products of a call run over.
template <class T, class Body>
bool with_elements(int64_t bf16, Body body) {
#if QUICKNET_BF16
  if constexpr (std::is_same<T, float>::value)
    if (bf16) return body(Pair{});
#endif
  return bf16 ? false : body(T{});
}

// No exception may cross into Python: the only one there is says that memory ran out.
template <class Body>
int guarded(Body body) {
  try {
    return body() ? 0 : 1;
  } catch (const std::bad_alloc&) {
    return 2;
  }
}

template <class T, class E>
bool product_holds(int rows, int depth, int columns) {
  const int lda = int(round_up(depth, kLanes<E>));
  std::vector<T> a(size_t((rows + kBlockRows) * lda)), b(size_t(depth * columns)), c(size_t(rows * columns));
  std::vector<E> panels(size_t(packed_size<T, E>(depth, columns)));
  std::vector<E> scratch(size_t(Elements<T, E>::scratch(rows + kBlockRows, lda)));
  std::vector<T*> targets;
  for (size_t i = 0; i < a.size(); ++i) a[i] = int(i) % lda < depth ? T(int(i * 7 % 11) - 5) : T(0);
  for (size_t i = 0; i < b.size(); ++i) b[i] = T(int(i * 5 % 13) - 6);
  for (int r = 0; r < rows; ++r) targets.push_back(c.data() + r * columns);
  pack_panels(b.data(), columns, 1, depth, columns, columns, panels.data());
  product(rows, depth, columns, a.data(), lda, panels.data(), targets.data(), scratch.data());
  for (int r = 0; r < rows; ++r)
    for (int n = 0; n < columns; ++n) {
      T sum = 0;  // small integers: exact in any order
      for (int k = 0; k < depth; ++k) sum += a[size_t(r * lda + k)] * b[size_t(k * columns + n)];
      if (sum != c[size_t(r * columns + n)]) return false;
    }
  return true;
}

}  // namespace
}  // namespace quicknet

#define QUICKNET_NORM(T) const T *mean, const T *variance, const T *weight, const T *bias, const T *slope

#define QUICKNET_FUNCTIONS(T, SUFFIX)                                                                          \
  int quicknet_channel_unit_##SUFFIX() { return quicknet::kChannelUnit<T>; }                                   \
  int quicknet_separable_forward_##SUFFIX(const int64_t* n, double epsilon, const T* z, QUICKNET_NORM(T),      \
                                          const T* depthwise, const T* pointwise, T* out, T* out_mean,         \
                                          T* out_variance) {                                                   \
    const quicknet::NormInput<T> norm{mean, variance, weight, bias, slope, epsilon};                           \
    return quicknet::guarded([&] {                                                                             \
      return quicknet::with_elements<T>(n[7], [&](auto e) {                                                    \
        return quicknet::with_kernel(n[5], [&](auto k) {                                                       \
          quicknet::separable_forward<T, decltype(e), decltype(k)::value>(                                     \
              quicknet::separable_shape(n), {z, norm, depthwise, pointwise}, out, out_mean, out_variance);     \
        });                                                                                                    \
      });                                                                                                      \
    });                                                                                                        \
  }                                                                                                            \
  int quicknet_separable_backward_##SUFFIX(                                                                    \
      const int64_t* n, double epsilon, const T* z, QUICKNET_NORM(T), const T* depthwise, const T* pointwise,  \
      const T* g, const T* out, const T* out_mean, const T* d_mean, const T* d_variance, T* d_z, T* d_norm,    \
      T* d_depthwise, T* d_pointwise) {                                                                        \
    const quicknet::NormInput<T> norm{mean, variance, weight, bias, slope, epsilon};                           \
    return quicknet::guarded([&] {                                                                             \
      return quicknet::with_elements<T>(n[7], [&](auto e) {                                                    \
        return quicknet::with_kernel(n[5], [&](auto k) {                                                       \
          quicknet::separable_backward<T, decltype(e), decltype(k)::value>(                                    \
              quicknet::separable_shape(n), {z, norm, depthwise, pointwise},                                   \
              {g, out, out_mean, d_mean, d_variance}, {d_z, d_norm, d_depthwise, d_pointwise});                \
        });                                                                                                    \
      });                                                                                                      \
    });                                                                                                        \
  }                                                                                                            \
  int quicknet_stem_forward_##SUFFIX(const int64_t* n, double, const T* x, const T* weight, T* out,            \
                                     T* out_mean, T* out_variance) {                                           \
    return quicknet::guarded([&] {                                                                             \
      return quicknet::with_elements<T>(n[7], [&](auto e) {                                                    \
        quicknet::stem_forward<T, decltype(e)>(quicknet::stem_shape(n), x, weight, out, out_mean, out_variance); \
        return true;                                                                                           \
      });                                                                                                      \
    });                                                                                                        \
  }                                                                                                            \
  int quicknet_stem_backward_##SUFFIX(const int64_t* n, double, const T* x, const T* g, const T* out,          \
                                      const T* out_mean, const T* d_mean, const T* d_variance, T* d_weight) {  \
    return quicknet::guarded([&] {                                                                             \
      return quicknet::with_elements<T>(n[7], [&](auto e) {                                                    \
        quicknet::stem_backward<T, decltype(e)>(                                                               \
            quicknet::stem_shape(n), x, g, out, out_mean, d_mean, d_variance, d_weight);                       \
        return true;                                                                                           \
      });                                                                                                      \
    });                                                                                                        \
  }                                                                                                            \
  int quicknet_output_forward_##SUFFIX(const int64_t* n, double epsilon, const T* z, QUICKNET_NORM(T), T* y) { \
    const quicknet::NormInput<T> norm{mean, variance, weight, bias, slope, epsilon};                           \
    return quicknet::guarded([&] {                                                                             \
      quicknet::output_forward<T>(n[0], int(n[1]), int(n[2]), z, norm, y);                                     \
      return true;                                                                                             \
    });                                                                                                        \
  }                                                                                                            \
  int quicknet_output_backward_##SUFFIX(const int64_t* n, double epsilon, const T* z, QUICKNET_NORM(T),        \
                                        const T* dy, T* d_z, T* d_norm) {                                      \
    const quicknet::NormInput<T> norm{mean, variance, weight, bias, slope, epsilon};                           \
    return quicknet::guarded([&] {                                                                             \
      quicknet::output_backward<T>(n[0], int(n[1]), int(n[2]), z, norm, dy, d_z, d_norm);                      \
      return true;                                                                                             \
    });                                                                                                        \
  }

extern "C" {

QUICKNET_FUNCTIONS(float, f32)
QUICKNET_FUNCTIONS(double, f64)

// Width of a vector in bits.
int quicknet_vector_bits() { return 8 * quicknet::kVectorBytes; }

// Whether the products can run over pairs of bfloat16.
int quicknet_bf16() { return QUICKNET_BF16; }

// 0 where this machine runs what the compiler made of this source, and right.
int quicknet_check() {
  using quicknet::product_holds;
  bool holds = product_holds<float, float>(37, 19, 3 * quicknet::kLanes<float>) &&
               product_holds<double, double>(29, 23, 5 * quicknet::kLanes<double>);
#if QUICKNET_BF16
  holds = holds && product_holds<float, quicknet::Pair>(37, 19, 3 * quicknet::kLanes<float>) &&
          product_holds<float, quicknet::Pair>(29, 64, 2 * quicknet::kLanes<float>);
#endif
  return holds ? 0 : 1;
}

}  // extern "C"
