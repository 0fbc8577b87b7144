// The first rows of several codes that are equally near: as many as are wanted, in order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "index.h"

namespace qo {

// Rows that may be found: bit r % 64 of word r / 64 for row r; all where null.
using Allowed = const std::uint64_t*;

inline bool allows(Allowed allowed, std::uint32_t row) { return allowed[row / 64] >> (row % 64) & 1; }

// Memory stays in proportion to what is wanted, however many rows the codes have. It is kept from one use to the next.
class FirstRows {
  public:
    void start(std::uint64_t wanted) {
        wanted_ = wanted;
        bound_ = std::numeric_limits<std::uint32_t>::max();
        rows_.clear();
    }

    void add_row(std::uint32_t row) {
        rows_.push_back(row);
        thin_out();
    }

    // The rows of a unique code, as far as they are allowed.
    void add_code(const Index& index, std::uint32_t unique, Allowed allowed) {
        const std::uint32_t last = index.end(unique);
        std::uint64_t taken = 0;
        for (std::uint32_t i = index.begin(unique); i < last && taken < wanted_; ++i) {
            const std::uint32_t row = index.postings[i];
            if (row >= bound_) break;
            if (allowed != nullptr && !allows(allowed, row)) continue;
            rows_.push_back(row);
            ++taken;
        }
        thin_out();
    }

    // The rows, ascending; good until the next start().
    const std::vector<std::uint32_t>& sorted() {
        sort();
        if (rows_.size() > wanted_) rows_.resize(wanted_);
        return rows_;
    }

    std::size_t capacity() const { return rows_.capacity() + spare_.capacity(); }

  private:
    static constexpr std::size_t kMore = 1024;    // than twice what is wanted: then it pays to let go of some
    static constexpr std::size_t kRadix = 256;    // rows from which on a sort by digits is quicker

    void thin_out() {
        if (rows_.size() <= wanted_ || rows_.size() - wanted_ <= wanted_ + kMore) return;
        std::nth_element(rows_.begin(), rows_.begin() + static_cast<std::ptrdiff_t>(wanted_), rows_.end());
        rows_.resize(wanted_);
        bound_ = wanted_ ? *std::max_element(rows_.begin(), rows_.end()) : 0;
    }

    void sort() {
        if (std::is_sorted(rows_.begin(), rows_.end())) return;
        if (rows_.size() < kRadix) {
            std::sort(rows_.begin(), rows_.end());
            return;
        }
        spare_.resize(rows_.size());
        const std::uint32_t largest = *std::max_element(rows_.begin(), rows_.end());
        for (int shift = 0; shift < 32 && largest >> shift; shift += 8) {
            std::size_t counts[256] = {};
            for (const std::uint32_t row : rows_) ++counts[(row >> shift) & 255];
            std::size_t sum = 0;
            for (std::size_t& count : counts) {
                const std::size_t next = sum + count;
                count = sum;
                sum = next;
            }
            for (const std::uint32_t row : rows_) spare_[counts[(row >> shift) & 255]++] = row;
            rows_.swap(spare_);
        }
    }

    std::uint64_t wanted_ = 0;
    std::uint32_t bound_ = 0;  // only rows below can still be among the first
    std::vector<std::uint32_t> rows_, spare_;
};

}  // namespace qo
