#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace qo {

// Calls work(begin, end) for pieces of [0, count) of at most `grain`, on up to `threads` threads (this one included).
// The first exception is thrown again here, after all threads have ended.
template <class Work>
void parallel(std::size_t count, std::size_t grain, unsigned threads, Work work) {
    const std::size_t pieces = (count + grain - 1) / grain;
    threads = static_cast<unsigned>(std::min<std::size_t>(std::max(threads, 1u), pieces));
    std::atomic<std::size_t> next{0};
    std::exception_ptr failure;
    std::mutex failing;
    const auto run = [&] {
        try {
            for (std::size_t piece; (piece = next.fetch_add(1)) < pieces;) {
                work(piece * grain, std::min(count, (piece + 1) * grain));
            }
        } catch (...) {
            next = pieces;
            const std::lock_guard<std::mutex> lock(failing);
            if (!failure) failure = std::current_exception();
        }
    };
    std::vector<std::thread> helpers;
    for (unsigned i = 1; i < threads; ++i) {
        try {
            helpers.emplace_back(run);
        } catch (const std::system_error&) {
            break;  // no more threads to be had: the ones there do the work
        }
    }
    run();
    for (std::thread& helper : helpers) helper.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace qo
