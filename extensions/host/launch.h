// The launch layer on a host: see include/launch.h. For tests; here the standard library is welcome.
#pragma once
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../include/portable.h"

namespace dreamforge {
namespace DF_LEVEL {

constexpr uint32_t WARP = 32;

// All of `size` threads wait until the last one has come.
class Barrier {
   public:
    explicit Barrier(uint32_t size) : size(size) {}
    void wait() {
        std::unique_lock<std::mutex> lock(mutex);
        uint64_t mine = round;
        if (++here == size) {
            here = 0, ++round;
            all.notify_all();
        } else
            all.wait(lock, [&] { return round != mine; });
    }

   private:
    std::mutex mutex;
    std::condition_variable all;
    uint32_t size, here = 0;
    uint64_t round = 0;
};

struct Warp {
    explicit Warp(uint32_t size) : barrier(size), size(size) {}
    Barrier barrier;
    uint32_t size;
    uint64_t slot[2][WARP] = {};
    uint32_t votes[3] = {};
};

struct Block {
    explicit Block(uint32_t size) : barrier(size) {
        for (uint32_t first = 0; first < size; first += WARP)
            warps.push_back(std::make_unique<Warp>(size - first < WARP ? size - first : WARP));
    }
    // One array for each place in the source; as on a GPU, what is in it at the start is anything.
    void* shared(const char* place, size_t bytes) {
        std::lock_guard<std::mutex> lock(mutex);
        auto& memory = arrays[place];
        if (!memory) memory.reset(new char[bytes]), std::memset(memory.get(), 0xa5, bytes);
        return memory.get();
    }
    Barrier barrier;
    uint32_t votes[3] = {};
    std::vector<std::unique_ptr<Warp>> warps;

   private:
    std::mutex mutex;
    std::map<std::string, std::unique_ptr<char[]>> arrays;
};

struct Place {
    uint32_t thread, size, x, y;
    Block* block;
    uint32_t shuffles = 0, warp_votes = 0, block_votes = 0;  // so far
};
inline thread_local Place here;

inline uint32_t thread_in_block() { return here.thread; }
inline uint32_t block_size() { return here.size; }
inline uint32_t block_x() { return here.x; }
inline uint32_t block_y() { return here.y; }
inline void sync_block() { here.block->barrier.wait(); }

inline void add_atomically(float* to, float value) {
    uint32_t before = __atomic_load_n((uint32_t*)to, __ATOMIC_RELAXED), after;
    do {
        float sum;
        std::memcpy(&sum, &before, 4);
        sum += value;
        std::memcpy(&after, &sum, 4);
    } while (!__atomic_compare_exchange_n((uint32_t*)to, &before, after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

inline void add_two_atomically(float* to, float first, float second) {
    add_atomically(to, first), add_atomically(to + 1, second);
}

inline void max_atomically(uint64_t* to, uint64_t value) {
    uint64_t before = __atomic_load_n(to, __ATOMIC_RELAXED);
    while (before < value && !__atomic_compare_exchange_n(to, &before, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

// What thread `from` of the warp has; one beyond its end, what the thread itself has. Rows of slots in turn: whoever
// writes one again has met all who read it at the shuffle between.
template <class T>
T shuffle(T value, uint32_t from) {
    static_assert(sizeof(T) <= 8, "one register");
    Warp& warp = *here.block->warps[here.thread / WARP];
    uint32_t lane = here.thread % WARP;
    uint64_t* slot = warp.slot[here.shuffles++ % 2];
    std::memcpy(&slot[lane], &value, sizeof(T));
    warp.barrier.wait();
    T answer;
    std::memcpy(&answer, &slot[from < warp.size ? from : lane], sizeof(T));
    return answer;
}

template <class T>
T shuffle_down(T value, uint32_t by) { return shuffle(value, here.thread % WARP + by); }
template <class T>
T shuffle_across(T value, uint32_t by) { return shuffle(value, here.thread % WARP ^ by); }

// Whether some thread said so in this round. Who comes out of it clears the votes of the round after the next: those of
// the round before, which all have read.
inline bool vote(Barrier& barrier, uint32_t (&votes)[3], uint32_t round, bool said) {
    if (said) __atomic_store_n(&votes[round % 3], 1, __ATOMIC_RELAXED);
    barrier.wait();
    __atomic_store_n(&votes[(round + 2) % 3], 0, __ATOMIC_RELAXED);
    return __atomic_load_n(&votes[round % 3], __ATOMIC_RELAXED);
}

inline bool any_in_warp(bool said) {
    Warp& warp = *here.block->warps[here.thread / WARP];
    return vote(warp.barrier, warp.votes, here.warp_votes++, said);
}
inline bool any_in_block(bool said) {
    return vote(here.block->barrier, here.block->votes, here.block_votes++, said);
}

// Blocks one after another, the threads of a block at once.
template <class Args>
void launch(void (*kernel)(const Args), const Args& args, uint32_t grid_x, uint32_t grid_y, uint32_t size) {
    for (uint32_t y = 0; y < grid_y; ++y)
        for (uint32_t x = 0; x < grid_x; ++x) {
            Block block(size);
            std::vector<std::thread> threads;
            for (uint32_t thread = 0; thread < size; ++thread)
                threads.emplace_back([&, thread] {
                    here = Place{thread, size, x, y, &block};
                    kernel(args);
                });
            for (std::thread& thread : threads) thread.join();
        }
}

}  // namespace DF_LEVEL
}  // namespace dreamforge

#define DF_TEXT(x) #x
#define DF_LINE(x) DF_TEXT(x)
#define DF_SHARED(T, name, size) T* name = (T*)here.block->shared(__FILE__ ":" DF_LINE(__LINE__), sizeof(T) * (size))
#define DF_KERNEL(name, Args)                                                                               \
    static void name(const Args args);                                                                      \
    extern "C" __attribute__((visibility("default"))) void host_##name(const Args* args, uint32_t grid_x,   \
                                                                       uint32_t grid_y, uint32_t size) {    \
        dreamforge::DF_LEVEL::launch(name, *args, grid_x, grid_y, size);                                    \
    }                                                                                                       \
    static void name(const Args args)
