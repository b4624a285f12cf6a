// Backward of `separable.h`: gradients of everything that the layer read. See there.
#pragma once

#include "separable.h"

namespace quicknet {

// Null where not wanted, z and norm together: z (N, H, W, padded C); norm (5, C)
// in the order of NormInput.
template <class T>
struct SeparableGradients {
    T *z, *norm, *depthwise, *pointwise;
};

// One piece's sums.
template <class T>
struct SeparableSums {
    T *pointwise, *depthwise;  // (padded O, padded C), (K * K, padded C)
    NormSums<T> norm;
};

// One pass over a piece's images.
template <class T, class E, int K>
class SeparableBackward {
 public:
    SeparableBackward(const SeparablePlan<T, K> &plan_in, const SeparableWeights<T, E> &weights_in,
                      const SeparableGradients<T> &want_in, SeparableSums<T> &sums_in, const ActivatedRows<T> &input_in)
        : plan(plan_in), weights(weights_in), want(want_in), sums(sums_in), input(input_in) {}

    void set(T *grad_ring_memory, T *d_memory, T *dz_memory, E *scratch_memory, int64_t first_image) {
        grad_ring.set(grad_ring_memory, plan.ring_rows, plan.height, plan.width, border, plan.pitch);
        d = d_memory;
        dz = dz_memory;
        scratch = scratch_memory;
        grad_z = want.z == nullptr ? nullptr : want.z + first_image * input.in_height * input.row_elements();
        taps.resize(size_t(plan.chunk_rows * K));
        grad_rows.resize(size_t(plan.chunk_rows));
        targets.resize(size_t(plan.chunk_rows * plan.width));
    }

    // z_out, g_out: this piece's part of the kept output and of its gradient.
    void run(const T *z_out, const T *g_out, const MomentsBackward<T> &moments, int64_t image_count) {
        const int64_t total = image_count * plan.height;
        for (int64_t row = 0; row < total; row += plan.chunk_rows) {
            const int count = int(std::min(plan.chunk_rows, total - row)), pixels = count * plan.width;
            const int64_t at = row * plan.width * plan.out_padded;
            moments.apply(z_out + at, g_out + at, pixels, plan.out_padded, dz, plan.out_pitch);
            chunk(row, count);
        }
        stream_fence();
    }

 private:
    static constexpr int border = K / 2;
    const SeparablePlan<T, K> &plan;
    const SeparableWeights<T, E> &weights;
    const SeparableGradients<T> &want;
    SeparableSums<T> &sums;
    ActivatedRows<T> input;
    Ring<T> grad_ring;
    T *d, *dz;  // depthwise output, later the input's gradient; the output's gradient
    E *scratch;
    T *grad_z;
    std::vector<const T *> taps, grad_rows, emit_taps;
    std::vector<int64_t> emitted;
    std::vector<T *> targets;

    void chunk(int64_t row, int count) {
        const Ring<T> &ring = input.ring;
        const int pixels = count * plan.width;
        if (want.pointwise != nullptr || want.depthwise != nullptr) {
            input.fill(ring.first(row + count - 1) + K);
            for (int r = 0; r < count; ++r)
                for (int q = 0; q < K; ++q) taps[size_t(r * K + q)] = ring.at(ring.first(row + r) + q);
        }
        if (want.pointwise != nullptr) {
            depthwise<T, K>(taps.data(), count, plan.width, plan.in_padded, plan.pitch, weights.depthwise, d);
            outer_product(pixels, plan.out_padded, plan.in_padded, dz, plan.out_pitch, d, plan.pitch, sums.pointwise,
                          scratch);
        }
        if (want.depthwise == nullptr && !wants_input()) return;
        depthwise_output_gradient(row, count);
        if (want.depthwise != nullptr)
            depthwise_weight_grad<T, K>(taps.data(), grad_rows.data(), count, plan.width, plan.in_padded, plan.pitch,
                                        sums.depthwise);
        if (wants_input()) input_gradient(row, count);
    }

    bool wants_input() const { return want.z != nullptr; }

    // dz x pointwise weight, straight into the bordered ring.
    void depthwise_output_gradient(int64_t row, int count) {
        for (int r = 0; r < count; ++r) {
            const int64_t first = grad_ring.first(row + r);
            T *start = grad_ring.at(first + border) + border * plan.pitch;
            grad_rows[size_t(r)] = start;
            for (int j = 0; j < plan.width; ++j) targets[size_t(r * plan.width + j)] = start + j * plan.pitch;
            const int i = int((row + r) % plan.height);
            if (i == 0)
                for (int b = 0; b < border; ++b) grad_ring.zero(first + b);
            if (i == plan.height - 1)
                for (int b = 0; b < border; ++b) grad_ring.zero(first + border + 1 + b);
        }
        product(count * plan.width, int(plan.s.out_channels), plan.in_padded, dz, plan.out_pitch, weights.back_panels,
                targets.data(), scratch);
    }

    // Rows whose whole neighbourhood has arrived: `border` rows behind, or to the image's end.
    void input_gradient(int64_t row, int count) {
        emitted.clear();
        for (int r = 0; r < count; ++r) {
            const int i = int((row + r) % plan.height);
            if (i >= border) emitted.push_back(row + r - border);
            if (i == plan.height - 1)
                for (int b = std::min(border, plan.height); b > 0; --b) emitted.push_back(row + r - b + 1);
        }
        const int n = int(emitted.size());
        emit_taps.resize(size_t(n) * K);
        for (int e = 0; e < n; ++e)
            for (int q = 0; q < K; ++q)
                emit_taps[size_t(e * K + q)] = grad_ring.at(grad_ring.first(emitted[size_t(e)]) + q);
        depthwise<T, K>(emit_taps.data(), n, plan.width, plan.in_padded, plan.pitch, weights.flipped, d);
        for (int e = 0; e < n; ++e) through_activation(emitted[size_t(e)], d + int64_t(e) * plan.width * plan.pitch);
        sums.norm.end_chunk(plan.in_padded);
    }

    void through_activation(int64_t row, const T *dy) {
        const int64_t image = row / plan.height, size = input.row_elements();
        const int i = int(row % plan.height), c = plan.in_padded;
        if (!input.pool) {
            const T *z = input.source(image, i);
            activate_row_backward(z, dy, plan.pitch, plan.width, c, input.norm, sums.norm, grad_z + (z - input.z));
            return;
        }
        const T *z = input.source(image, 2 * i);
        T *g = grad_z + (z - input.z);
        activate_pooled_row_backward(z, z + size, dy, plan.pitch, plan.width, c, input.norm, sums.norm, g, g + size);
        const int64_t used = int64_t(2) * plan.width * c;  // an odd last column and row were not pooled
        if (used < size)
            for (int k = 0; k < 2; ++k) std::memset(g + k * size + used, 0, sizeof(T) * size_t(size - used));
        if (i == plan.height - 1 && 2 * plan.height < input.in_height)
            std::memset(g + 2 * size, 0, sizeof(T) * size_t(size));
    }
};

// Joins the pieces' sums in their order.
template <class T, int K>
void join_gradients(const SeparablePlan<T, K> &plan, const std::vector<SeparableSums<T>> &parts,
                    const NormInput<T> &norm, const SeparableGradients<T> &out) {
    const int channels = plan.channels, c_padded = plan.in_padded, outs = int(plan.s.out_channels);
    if (out.pointwise != nullptr) {
#pragma omp parallel for num_threads(int(plan.s.threads)) schedule(dynamic, 32)
        for (int o = 0; o < outs; ++o)
            for (int c = 0; c < channels; ++c) {
                T sum = 0;
                for (const auto &part : parts) sum += part.pointwise[int64_t(o) * c_padded + c];
                out.pointwise[int64_t(o) * channels + c] = sum;
            }
    }
    for (int c = 0; c < channels; ++c) {
        for (int q = 0; q < K * K && out.depthwise != nullptr; ++q) {
            T sum = 0;
            for (const auto &part : parts) sum += part.depthwise[int64_t(q) * c_padded + c];
            out.depthwise[int64_t(c) * K * K + q] = sum;
        }
        if (out.norm == nullptr) continue;
        double sums[3] = {0, 0, 0};
        for (const auto &part : parts)
            for (int k = 0; k < 3; ++k) sums[k] += part.norm.total[k * c_padded + c];
        norm.gradients(sums, c, channels, out.norm);
    }
}

template <class T, class E, int K>
void separable_backward(const Separable &s, const SeparableInput<T> &in, const LayerKept<T> &kept,
                        const SeparableGradients<T> &out) {
    const SeparablePlan<T, K> plan(s);
    const int c = plan.in_padded, o = plan.out_padded, pieces = plan.pieces();
    const int64_t taps = int64_t(K) * K * c, total = 3 * int64_t(c) * int64_t(sizeof(double) / sizeof(T));
    const int64_t part = int64_t(o) * c + taps + 3 * c + total;
    Norm<T> norm;
    MomentsBackward<T> moments;
    SeparableWeights<T, E> weights{};
    T *parts_memory;
    shared_arena().take({{&norm.mean, c},
                         {&norm.scale, c},
                         {&norm.shift, c},
                         {&norm.slope, c},
                         {&moments.mean, o},
                         {&moments.per_mean, o},
                         {&moments.per_variance, o},
                         {&weights.depthwise, taps},
                         {&weights.flipped, taps},
                         {&weights.back_panels, packed_size<T, E>(s.out_channels, c)},
                         {&parts_memory, pieces * part}});
    const double pixels = double(s.images) * plan.height * plan.width;
    norm.set(in.norm, plan.channels, c);
    moments.set(kept.mean, kept.d_mean, kept.d_variance, pixels, int(s.out_channels), o);
    weights.set_depthwise(in.depthwise, plan.channels, c, K * K);
    pack_panels(in.pointwise, s.in_channels, 1, int(s.out_channels), c, plan.channels, weights.back_panels);
    std::vector<SeparableSums<T>> sums(static_cast<size_t>(pieces));
    for_pieces(pieces, s.threads, [&](int i) {
        SeparableSums<T> &mine = sums[size_t(i)];
        T *memory = parts_memory + i * part;  // the doubles first, for their alignment
        mine = {memory + total,
                memory + total + int64_t(o) * c,
                {memory + part - 3 * c, memory + part - 2 * c, memory + part - c, reinterpret_cast<double *>(memory)}};
        std::memset(mine.pointwise, 0, sizeof(T) * size_t(int64_t(o) * c + taps));
        mine.norm.clear(c);
        const Range images = share(s.images, i, pieces);
        T *ring, *grad_ring, *d, *dz;
        E *scratch;
        thread_arena().take({{&ring, plan.ring_size},
                             {&grad_ring, plan.ring_size},
                             {&d, plan.chunk_size * plan.pitch},
                             {&dz, plan.chunk_size * plan.out_pitch},
                             {&scratch, plan.template scratch<E>()}});
        SeparableBackward<T, E, K> pass(plan, weights, out, mine, plan.rows(ring, norm, in.z, images.begin));
        pass.set(grad_ring, d, dz, scratch, images.begin);
        const int64_t at = images.begin * plan.height * plan.width * o;
        pass.run(kept.z + at, kept.g + at, moments, images.end - images.begin);
    });
    join_gradients<T, K>(plan, sums, in.norm, out);
}

}  // namespace quicknet
