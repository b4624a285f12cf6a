// The C interface that `native.py` calls: float and double forms of each function, and the
// library's own check. Arguments travel in the layers' own structs, which `native.py` mirrors.
#include <cmath>
#include <vector>

#include "dense.h"
#include "output.h"
#include "requantize.h"
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
    } catch (const std::bad_alloc &) {
        return 2;
    }
}

// Calls body(E{}, constant<K>) for a separable layer: 0, or what went wrong.
template <class T, class Body>
int with_separable(const Separable &s, Body body) {
    return guarded([&] {
        return with_elements<T>(s.bf16, [&](auto e) { return with_kernel(s.kernel, [&](auto k) { body(e, k); }); });
    });
}

template <class T>
int run_separable_forward(const Separable &s, const SeparableInput<T> &in, const LayerOutput<T> &out) {
    return with_separable<T>(
        s, [&](auto e, auto k) { separable_forward<T, decltype(e), decltype(k)::value>(s, in, out); });
}

template <class T>
int run_separable_backward(const Separable &s, const SeparableInput<T> &in, const LayerKept<T> &kept,
                           const SeparableGradients<T> &out) {
    return with_separable<T>(
        s, [&](auto e, auto k) { separable_backward<T, decltype(e), decltype(k)::value>(s, in, kept, out); });
}

template <class T>
int run_stem_forward(const Stem &s, const StemInput<T> &in, const LayerOutput<T> &out) {
    return guarded([&] {
        return with_elements<T>(s.bf16, [&](auto e) {
            stem_forward<T, decltype(e)>(s, in, out);
            return true;
        });
    });
}

template <class T>
int run_stem_backward(const Stem &s, const StemInput<T> &in, const LayerKept<T> &kept, const StemGradients<T> &out) {
    return guarded([&] {
        return with_elements<T>(s.bf16, [&](auto e) {
            stem_backward<T, decltype(e)>(s, in, kept, out);
            return true;
        });
    });
}

template <class T>
int run_output_forward(const Output &s, const OutputInput<T> &in, const OutputResult<T> &out) {
    return guarded([&] {
        output_forward(s, in, out);
        return true;
    });
}

template <class T>
int run_output_backward(const Output &s, const OutputInput<T> &in, const OutputGradients<T> &out) {
    return guarded([&] {
        output_backward(s, in, out);
        return true;
    });
}

template <class T>
int run_dense_forward(const Dense &s, const DenseInput<T> &in, const DenseOutput<T> &out) {
    return guarded([&] {
        return with_elements<T>(s.bf16, [&](auto e) {
            dense_forward<T, decltype(e)>(s, in, out);
            return true;
        });
    });
}

template <class T>
int run_dense_weight_gradient(const Dense &s, const DenseKept<T> &kept, const DenseGradients<T> &out) {
    return guarded([&] {
        return with_elements<T>(s.bf16, [&](auto e) {
            dense_weight_gradient<T, decltype(e)>(s, kept, out);
            return true;
        });
    });
}

template <class T>
int run_requantize_forward(const Requantize &s, const RequantizeInput<T> &in, const RequantizeResult<T> &out) {
    return guarded([&] {
        requantize_forward(s, in, out);
        return true;
    });
}

template <class T>
int run_requantize_backward(const Requantize &s, const RequantizeInput<T> &in, const RequantizeGradients<T> &out) {
    return guarded([&] {
        requantize_backward(s, in, out);
        return true;
    });
}

template <class T, class E>
bool product_holds(int rows, int depth, int columns) {
    const int lda = int(round_up(depth, kLanes<E>));
    std::vector<T> a(size_t((rows + kSpareRows) * lda)), b(size_t(depth * columns)), c(size_t(rows * columns));
    std::vector<E> panels(size_t(packed_size<T, E>(depth, columns)));
    std::vector<E> scratch(size_t(Elements<T, E>::scratch(rows + kSpareRows, lda)));
    std::vector<T *> targets;
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

using namespace quicknet;

extern "C" {

int quicknet_separable_forward_f32(const Separable *s, const SeparableInput<float> *in, const LayerOutput<float> *out) {
    return run_separable_forward(*s, *in, *out);
}
int quicknet_separable_forward_f64(const Separable *s, const SeparableInput<double> *in,
                                   const LayerOutput<double> *out) {
    return run_separable_forward(*s, *in, *out);
}

int quicknet_separable_backward_f32(const Separable *s, const SeparableInput<float> *in, const LayerKept<float> *kept,
                                    const SeparableGradients<float> *out) {
    return run_separable_backward(*s, *in, *kept, *out);
}
int quicknet_separable_backward_f64(const Separable *s, const SeparableInput<double> *in, const LayerKept<double> *kept,
                                    const SeparableGradients<double> *out) {
    return run_separable_backward(*s, *in, *kept, *out);
}

int quicknet_stem_forward_f32(const Stem *s, const StemInput<float> *in, const LayerOutput<float> *out) {
    return run_stem_forward(*s, *in, *out);
}
int quicknet_stem_forward_f64(const Stem *s, const StemInput<double> *in, const LayerOutput<double> *out) {
    return run_stem_forward(*s, *in, *out);
}

int quicknet_stem_backward_f32(const Stem *s, const StemInput<float> *in, const LayerKept<float> *kept,
                               const StemGradients<float> *out) {
    return run_stem_backward(*s, *in, *kept, *out);
}
int quicknet_stem_backward_f64(const Stem *s, const StemInput<double> *in, const LayerKept<double> *kept,
                               const StemGradients<double> *out) {
    return run_stem_backward(*s, *in, *kept, *out);
}

int quicknet_output_forward_f32(const Output *s, const OutputInput<float> *in, const OutputResult<float> *out) {
    return run_output_forward(*s, *in, *out);
}
int quicknet_output_forward_f64(const Output *s, const OutputInput<double> *in, const OutputResult<double> *out) {
    return run_output_forward(*s, *in, *out);
}

int quicknet_output_backward_f32(const Output *s, const OutputInput<float> *in, const OutputGradients<float> *out) {
    return run_output_backward(*s, *in, *out);
}
int quicknet_output_backward_f64(const Output *s, const OutputInput<double> *in, const OutputGradients<double> *out) {
    return run_output_backward(*s, *in, *out);
}

int quicknet_dense_forward_f32(const Dense *s, const DenseInput<float> *in, const DenseOutput<float> *out) {
    return run_dense_forward(*s, *in, *out);
}
int quicknet_dense_forward_f64(const Dense *s, const DenseInput<double> *in, const DenseOutput<double> *out) {
    return run_dense_forward(*s, *in, *out);
}

int quicknet_dense_weight_gradient_f32(const Dense *s, const DenseKept<float> *kept, const DenseGradients<float> *out) {
    return run_dense_weight_gradient(*s, *kept, *out);
}
int quicknet_dense_weight_gradient_f64(const Dense *s, const DenseKept<double> *kept,
                                       const DenseGradients<double> *out) {
    return run_dense_weight_gradient(*s, *kept, *out);
}

int quicknet_requantize_forward_f32(const Requantize *s, const RequantizeInput<float> *in,
                                    const RequantizeResult<float> *out) {
    return run_requantize_forward(*s, *in, *out);
}
int quicknet_requantize_forward_f64(const Requantize *s, const RequantizeInput<double> *in,
                                    const RequantizeResult<double> *out) {
    return run_requantize_forward(*s, *in, *out);
}

int quicknet_requantize_backward_f32(const Requantize *s, const RequantizeInput<float> *in,
                                     const RequantizeGradients<float> *out) {
    return run_requantize_backward(*s, *in, *out);
}
int quicknet_requantize_backward_f64(const Requantize *s, const RequantizeInput<double> *in,
                                     const RequantizeGradients<double> *out) {
    return run_requantize_backward(*s, *in, *out);
}

// The multiple that stored channels are padded to.
int quicknet_channel_unit_f32() { return kChannelUnit<float>; }
int quicknet_channel_unit_f64() { return kChannelUnit<double>; }

// Width of a vector in bits.
int quicknet_vector_bits() { return 8 * kVectorBytes; }

// Whether the products can run over pairs of bfloat16.
int quicknet_bf16() { return QUICKNET_BF16; }

// Whether they are faster so. Intel's cores multiply float32 in two units and pairs in one of them, which comes to
// the same, and rounding comes on top: `quicknet` at 64 pixels trained at 174 to 217 images/s in float32 and 134 to
// 147 in bfloat16 on a Xeon that has pairs and no tiles, `quicknet_xs` at 1,650 and 1,330; on Zen 4 pairs win.
int quicknet_bf16_pays() {
#if QUICKNET_BF16
    return QUICKNET_TILES || !__builtin_cpu_is("intel");
#else
    return 0;
#endif
}

// 0 where this machine runs what the compiler made of this source, and right.
int quicknet_check() {
    bool holds = product_holds<float, float>(37, 19, 3 * kLanes<float>) &&
                 product_holds<double, double>(29, 23, 5 * kLanes<double>);
#if QUICKNET_BF16
    holds = holds && product_holds<float, Pair>(37, 19, 3 * kLanes<float>) &&
            product_holds<float, Pair>(29, 64, 2 * kLanes<float>);
#endif
    return holds ? 0 : 1;
}

}  // extern "C"
