// The threads of a step. Between two pieces of work they wait awake for a moment, as pieces follow within microseconds,
// and then sleep. Work is dealt in equal shares; with one thread there is nobody to wait for.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

class Pool {
  public:
    explicit Pool(int threads) : threads(threads) {
        for (int number = 1; number < threads; number++) workers.emplace_back([this, number] { serve(number); });
    }

    ~Pool() {
        tell(nullptr);
        for (auto& worker : workers) worker.join();
    }

    // work(from, to, thread) for shares of [0, count).
    template <class Work>
    void run(int count, const Work& work) {
        if (threads == 1 || count == 1) return work(0, count, 0);
        const std::function<void(int)> share = [&](int number) {
            const int from = (long)count * number / threads, to = (long)count * (number + 1) / threads;
            if (from < to) work(from, to, number);
        };
        left.store(threads - 1, std::memory_order_relaxed);
        tell(&share);
        share(0);
        for (int turns = 0; left.load(std::memory_order_acquire); turns++) pause(turns);
    }

    const int threads;

  private:
    static constexpr int AWAKE = 4000;  // turns of waiting, some tens of microseconds

    static void pause(int turns) { turns < AWAKE ? __builtin_ia32_pause() : std::this_thread::yield(); }

    void tell(const std::function<void(int)>* work) {
        current = work;
        {
            std::lock_guard<std::mutex> guard(lock);
            round.fetch_add(1, std::memory_order_release);
        }
        if (asleep.load()) wake.notify_all();
    }

    void serve(int number) {
        for (unsigned seen = 0;; seen++) {
            for (int turns = 0; turns < AWAKE && round.load(std::memory_order_acquire) == seen; turns++) pause(0);
            if (round.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> guard(lock);
                asleep++;
                wake.wait(guard, [&] { return round.load() != seen; });
                asleep--;
            }
            if (!current) return;
            (*current)(number);
            left.fetch_sub(1, std::memory_order_release);
        }
    }

    std::vector<std::thread> workers;
    std::mutex lock;
    std::condition_variable wake;
    std::atomic<unsigned> round{0};
    std::atomic<int> left{0}, asleep{0};
    const std::function<void(int)>* current = nullptr;
};
