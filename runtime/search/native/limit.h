#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "levels.h"

namespace qo {

// The k-th smallest key of those added, each with its number of rows.
class Limit {
  public:
    void start(std::uint64_t k, std::uint32_t known) {
        k_ = k;
        known_ = limit_ = known;
        rows_ = 0;
        heap_.clear();
    }
    // Nothing above is among the first k.
    std::uint32_t get() const { return limit_; }
    bool reached() const { return rows_ >= k_; }

    void add(std::uint32_t key, std::uint64_t rows) {
        if (rows == 0 || (reached() && key >= heap_.front().key)) return;
        heap_.push_back({key, rows});
        std::push_heap(heap_.begin(), heap_.end());
        rows_ += rows;
        while (rows_ - heap_.front().rows >= k_) {
            rows_ -= heap_.front().rows;
            std::pop_heap(heap_.begin(), heap_.end());
            heap_.pop_back();
        }
        if (reached()) limit_ = std::min(known_, heap_.front().key);
    }

    std::size_t capacity() const { return heap_.capacity(); }

  private:
    struct Group {
        std::uint32_t key;
        std::uint64_t rows;
        bool operator<(const Group& other) const { return key < other.key; }
    };
    std::uint64_t k_ = 0, rows_ = 0;
    std::uint32_t known_ = kNever, limit_ = kNever;
    std::vector<Group> heap_;  // the largest key first; without it there are fewer than k rows
};

}  // namespace qo
