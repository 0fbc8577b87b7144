// Order among what is equally near: by the distance of margins, which say how sure a network was of each bit.
//
// A margin is an int8, its sign the bit, and never 0. Rows at one distance come in the order of (the squared L2 distance
// of their margins to the query's, row). The margins of a row lie at rows + row * stride: `bits` of them, and zeros up to
// the stride, a multiple of kMarginStep. They need not be there: while the first is 0, they are unknown. They are set once,
// at any time, while others search (set_margins): the first one last.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels.h"

namespace qo {

constexpr std::size_t kMaxMargins = 64;

inline std::size_t margin_stride(int bits) {
    return (static_cast<std::size_t>(bits) + kMarginStep - 1) / kMarginStep * kMarginStep;
}

// One side of a search by margins, beside Request: those of the rows, and of the queries, [queries, bits]. No rows: no
// such search.
struct Margins {
    const std::int8_t* rows = nullptr;
    std::size_t stride = 0;
    const std::int8_t* queries = nullptr;
};

inline bool known(const std::int8_t* margins) { return __atomic_load_n(margins, __ATOMIC_ACQUIRE) != 0; }

inline void set_margins(std::int8_t* to, const std::int8_t* margins, std::size_t bits) {
    if (known(to)) return;
    std::memcpy(to + 1, margins + 1, bits - 1);
    __atomic_store_n(to, margins[0], __ATOMIC_RELEASE);
}

// The first rows of those that are equally near: as many as are wanted, in order. As FirstRows, its memory stays in
// proportion to that, however many rows there are, and is kept from one use to the next.
class FirstByMargins {
  public:
    // For the query of this number.
    void start(const Margins& margins, std::size_t query, int bits, Squares squares) {
        rows_ = margins.rows;
        stride_ = margins.stride;
        squares_ = squares;
        unknown_.clear();
        if (rows_ == nullptr) return;
        const auto width = static_cast<std::size_t>(bits);
        std::fill(std::begin(query_), std::end(query_), std::int8_t{0});
        std::copy_n(margins.queries + query * width, width, query_);
    }
    bool used() const { return rows_ != nullptr; }

    // Rows at the next distance.
    void start_group(std::uint64_t wanted) {
        wanted_ = wanted;
        bound_ = std::numeric_limits<std::uint64_t>::max();
        keys_.clear();
        waiting_ = 0;
    }

    void add_row(std::uint32_t row) {
        __builtin_prefetch(rows_ + row * stride_);
        __builtin_prefetch(rows_ + (row + std::size_t{1}) * stride_ - 1);
        rows_waiting_[waiting_++] = row;
        if (waiting_ == kTogether) compare();
    }

    // Each a square and a row (see below), ascending; good until the next start_group().
    const std::vector<std::uint64_t>& sorted() {
        compare();
        if (keys_.size() > wanted_) thin_out();
        std::sort(keys_.begin(), keys_.end());
        return keys_;
    }
    static std::uint32_t row_of(std::uint64_t key) { return static_cast<std::uint32_t>(key); }
    static std::int32_t square_of(std::uint64_t key) { return static_cast<std::int32_t>(key >> 32); }

    // Rows of any group whose margins are unknown: they are in no group.
    const std::vector<std::uint32_t>& unknown() const { return unknown_; }

    std::size_t capacity() const { return keys_.capacity() + unknown_.capacity(); }

  private:
    static constexpr std::size_t kTogether = 64;  // rows whose margins are on their way from memory at once
    static constexpr std::size_t kMore = 1024;    // than twice what is wanted: then it pays to let go of some

    void compare() {
        std::size_t count = 0;
        for (std::size_t i = 0; i < waiting_; ++i) {
            const std::uint32_t row = rows_waiting_[i];
            if (known(rows_ + row * stride_)) {
                rows_waiting_[count++] = row;
            } else {
                unknown_.push_back(row);
            }
        }
        waiting_ = 0;
        std::uint32_t found[kTogether];
        squares_(rows_, stride_, rows_waiting_, count, query_, found);
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint64_t key = static_cast<std::uint64_t>(found[i]) << 32 | rows_waiting_[i];
            if (key < bound_) keys_.push_back(key);
        }
        if (keys_.size() > wanted_ && keys_.size() - wanted_ > wanted_ + kMore) thin_out();
    }

    void thin_out() {
        std::nth_element(keys_.begin(), keys_.begin() + static_cast<std::ptrdiff_t>(wanted_), keys_.end());
        bound_ = keys_[wanted_];
        keys_.resize(wanted_);
    }

    const std::int8_t* rows_ = nullptr;
    std::size_t stride_ = 0;
    Squares squares_ = nullptr;
    alignas(64) std::int8_t query_[kMaxMargins] = {};
    std::uint64_t wanted_ = 0;
    std::uint64_t bound_ = 0;  // only keys below can still be among the first
    std::uint32_t rows_waiting_[kTogether] = {};
    std::size_t waiting_ = 0;
    std::vector<std::uint64_t> keys_;
    std::vector<std::uint32_t> unknown_;
};

}  // namespace qo
