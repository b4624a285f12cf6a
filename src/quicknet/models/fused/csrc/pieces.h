// How a call's work is shared out: pieces of images, which threads take as they become free.
//
// With one fixed part for each thread, a layer waits for the thread whose core another process
// uses too, and the scheduler may leave both threads on the other core: beside one busy process on
// one of two cores, quicknet_s at 64 pixels kept 0.43 of its speed; it keeps 0.65 so
// (benchmarks/bench_busy.py). Sums belong to pieces, not to threads, so results depend on the
// number of threads and never on their timing.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>

#ifdef __linux__
#include <sched.h>
#endif

namespace quicknet {

struct Range {
    int64_t begin, end;
};

// Part number `part` of `parts` parts of 0..count that differ by one at most.
inline Range share(int64_t count, int64_t part, int64_t parts) {
    return {count * part / parts, count * (part + 1) / parts};
}

// Each piece costs a pass over its sums, so: at least three chunks a piece where that leaves one a
// thread, at most four pieces a thread, and as many for each thread.
inline int piece_count(int64_t images, int64_t pixels, int64_t chunk, int64_t threads) {
    if (threads == 1) return 1;
    const int64_t per_thread = std::max<int64_t>(1, std::min<int64_t>(4, pixels / (3 * chunk * threads)));
    return int(std::max<int64_t>(1, std::min(threads * per_thread, images)));
}

// Threads of one call that find themselves on the same core, while another core is allowed them:
// the later one moves, and may be moved again by the scheduler at any time.
class Spread {
 public:
    void arrive() {
#ifdef __linux__
        const int cpu = sched_getcpu();
        if (cpu < 0 || cpu >= 64) return;  // no map that large; the scheduler's choice stays
        const uint64_t used = used_.fetch_or(uint64_t(1) << cpu);
        if (used >> cpu & 1) leave(used | uint64_t(1) << cpu);
#endif
    }

 private:
    std::atomic<uint64_t> used_{0};

#ifdef __linux__
    static void leave(uint64_t used) {
        cpu_set_t allowed, rest;
        if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
        rest = allowed;
        for (int cpu = 0; cpu < 64; ++cpu)
            if (used >> cpu & 1) CPU_CLR(cpu, &rest);
        if (CPU_COUNT(&rest) == 0) return;
        if (sched_setaffinity(0, sizeof rest, &rest) == 0) sched_setaffinity(0, sizeof allowed, &allowed);
    }
#endif
};

// Calls body(piece) for each piece, on `threads` threads. No exception may leave a parallel region, so that memory
// ran out in one of them is thrown behind it.
template <class Body>
void for_pieces(int pieces, int64_t threads, const Body &body) {
    Spread spread;
    std::atomic<bool> exhausted{false};
#pragma omp parallel num_threads(int(threads))
    {
        if (threads > 1) spread.arrive();
#pragma omp for schedule(dynamic, 1) nowait
        for (int i = 0; i < pieces; ++i) {
            if (exhausted.load(std::memory_order_relaxed)) continue;
            try {
                body(i);
            } catch (const std::bad_alloc &) {
                exhausted.store(true, std::memory_order_relaxed);
            }
        }
    }
    if (exhausted.load()) throw std::bad_alloc();
}

}  // namespace quicknet
