// The threads of a step. Idle threads spin for a moment, as the next job usually follows within microseconds, and then
// sleep. A job is divided into equal shares; the calling thread takes one itself.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

class ThreadPool {
  public:
    explicit ThreadPool(int threads) : threads(threads) {
        for (int number = 1; number < threads; number++) workers.emplace_back([this, number] { worker_loop(number); });
    }

    ~ThreadPool() {
        publish(nullptr);
        for (auto& worker : workers) worker.join();
    }

    // Calls work(from, to, thread) for shares of [0, count), and returns when all are done.
    template <class Work>
    void run(int count, const Work& work) {
        if (threads == 1 || count == 1) return work(0, count, 0);
        const std::function<void(int)> share = [&](int number) {
            const int from = (long)count * number / threads, to = (long)count * (number + 1) / threads;
            if (from < to) work(from, to, number);
        };
        unfinished.store(threads - 1, std::memory_order_relaxed);
        publish(&share);
        share(0);
        for (int spins = 0; unfinished.load(std::memory_order_acquire); spins++) pause(spins);
    }

    const int threads;

  private:
    static constexpr int MAX_SPINS = 4000;  // some tens of microseconds

    static void pause(int spins) { spins < MAX_SPINS ? __builtin_ia32_pause() : std::this_thread::yield(); }

    // Hands the workers a job; nullptr ends them.
    void publish(const std::function<void(int)>* job) {
        current = job;
        {
            std::lock_guard<std::mutex> guard(lock);
            jobs.fetch_add(1, std::memory_order_release);
        }
        if (asleep.load()) wake.notify_all();
    }

    void worker_loop(int number) {
        for (unsigned seen = 0;; seen++) {
            for (int spins = 0; spins < MAX_SPINS && jobs.load(std::memory_order_acquire) == seen; spins++) pause(0);
            if (jobs.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> guard(lock);
                asleep++;
                wake.wait(guard, [&] { return jobs.load() != seen; });
                asleep--;
            }
            if (!current) return;
            (*current)(number);
            unfinished.fetch_sub(1, std::memory_order_release);
        }
    }

    std::vector<std::thread> workers;
    std::mutex lock;
    std::condition_variable wake;
    std::atomic<unsigned> jobs{0};  // published so far
    std::atomic<int> unfinished{0}, asleep{0};
    const std::function<void(int)>* current = nullptr;
};
