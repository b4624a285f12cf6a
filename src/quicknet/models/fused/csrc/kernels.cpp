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

Separable separable_shape(const int64_t* n) { return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]}; }
Stem stem_shape(const int64_t* n) { return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]}; }

// No exception may cross into Python: the only one there is says that memory ran out.
template <class Body>
int guarded(Body body) {
  try {
    return body() ? 0 : 1;
  } catch (const std::bad_alloc&) {
    return 2;
  }
}

template <class T>
bool product_holds(int rows, int depth, int columns) {
  const int lda = depth + 1;
  std::vector<T> a(size_t((rows + kBlockRows) * lda)), b(size_t(depth * columns)), panels(b.size());
  std::vector<T> c(size_t(rows * columns));
  std::vector<T*> targets;
  for (size_t i = 0; i < a.size(); ++i) a[i] = T(int(i * 7 % 11) - 5);
  for (size_t i = 0; i < b.size(); ++i) b[i] = T(int(i * 5 % 13) - 6);
  for (int r = 0; r < rows; ++r) targets.push_back(c.data() + r * columns);
  pack_panels(b.data(), columns, 1, depth, columns, columns, panels.data());
  product(rows, depth, columns, a.data(), lda, panels.data(), targets.data());
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
      return quicknet::with_kernel(n[5], [&](auto k) {                                                         \
        quicknet::separable_forward<T, decltype(k)::value>(                                                    \
            quicknet::separable_shape(n), {z, norm, depthwise, pointwise}, out, out_mean, out_variance);       \
      });                                                                                                      \
    });                                                                                                        \
  }                                                                                                            \
  int quicknet_separable_backward_##SUFFIX(                                                                    \
      const int64_t* n, double epsilon, const T* z, QUICKNET_NORM(T), const T* depthwise, const T* pointwise,  \
      const T* g, const T* out, const T* out_mean, const T* d_mean, const T* d_variance, T* d_z, T* d_norm,    \
      T* d_depthwise, T* d_pointwise) {                                                                        \
    const quicknet::NormInput<T> norm{mean, variance, weight, bias, slope, epsilon};                           \
    return quicknet::guarded([&] {                                                                             \
      return quicknet::with_kernel(n[5], [&](auto k) {                                                         \
        quicknet::separable_backward<T, decltype(k)::value>(                                                   \
            quicknet::separable_shape(n), {z, norm, depthwise, pointwise},                                     \
            {g, out, out_mean, d_mean, d_variance}, {d_z, d_norm, d_depthwise, d_pointwise});                  \
      });                                                                                                      \
    });                                                                                                        \
  }                                                                                                            \
  int quicknet_stem_forward_##SUFFIX(const int64_t* n, double, const T* x, const T* weight, T* out,            \
                                     T* out_mean, T* out_variance) {                                           \
    return quicknet::guarded([&] {                                                                             \
      quicknet::stem_forward<T>(quicknet::stem_shape(n), x, weight, out, out_mean, out_variance);              \
      return true;                                                                                             \
    });                                                                                                        \
  }                                                                                                            \
  int quicknet_stem_backward_##SUFFIX(const int64_t* n, double, const T* x, const T* g, const T* out,          \
                                      const T* out_mean, const T* d_mean, const T* d_variance, T* d_weight) {  \
    return quicknet::guarded([&] {                                                                             \
      quicknet::stem_backward<T>(quicknet::stem_shape(n), x, g, out, out_mean, d_mean, d_variance, d_weight);  \
      return true;                                                                                             \
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

// 0 where this machine runs what the compiler made of this source, and right.
int quicknet_check() {
  using quicknet::product_holds;
  return product_holds<float>(37, 19, 3 * quicknet::kLanes<float>) &&
                 product_holds<double>(29, 23, 5 * quicknet::kLanes<double>)
             ? 0
             : 1;
}

}  // extern "C"
