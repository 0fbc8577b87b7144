// One ranked search: the first k rows by their keys (see rank.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "batch.h"
#include "levels.h"
#include "limit.h"
#include "rank.h"

namespace qo {

constexpr std::size_t kBucketsKnown = 8;  // of each chunk, before they are looked at

// The order of results as one integer; see rank.h.
struct Keys {
    Rank rank;

    std::uint32_t of_bit(std::uint32_t weight) const {
        return rank == Rank::weighted ? weight << 7 | 1 : 1u << 16 | weight;
    }
    std::int32_t distance(std::uint32_t key) const {
        return static_cast<std::int32_t>(rank == Rank::weighted ? key & 127 : key >> 16);
    }
    std::int32_t score(std::uint32_t key) const {
        return static_cast<std::int32_t>(rank == Rank::weighted ? key >> 7 : key & 0xffff);
    }
};

// A code that may be among the results.
struct Ranked {
    std::uint64_t code;
    std::uint32_t unique;  // its number, or kUnknown
    std::uint32_t key;
};

// The search of one query. Reused for many: its memory stays.
class RankedQuery {
  public:
    struct Found {
        const std::uint32_t* rows;
        const std::uint32_t* keys;
        std::size_t count;
    };

    void start(const Request& request, const Weights& weights, const Costs& costs, std::size_t query, std::uint64_t k);
    // Look-ups in chunks for about `budget` ns, or longer where that should be enough (forecast.h); whether it was.
    bool look_up(double budget);
    // Forget the candidates but not how near the k-th is: every code is offered again.
    void prepare_scan();
    // Steps of a scan: words, or buckets of chunk 0 where there are none.
    void scan(std::size_t begin, std::size_t end);
    Found finish();
    // Give back the memory of an unusually large search.
    void shrink();

    Found run(const Request& request, const Weights& weights, const Costs& costs, std::size_t query, std::uint64_t k);
    const Spent& spent() const { return spent_; }

  private:
    // One chunk: the buckets to come, the nearest of them in a ring, and the look-up tables of its codes.
    struct Side {
        Levels levels;
        Levels::Bucket ring[kBucketsKnown];
        std::size_t front = 0;
        std::uint64_t taken = 0;
        alignas(64) std::uint32_t sums[kMaxSums];
        std::uint32_t next() const { return ring[front % kBucketsKnown].key; }
    };

    void prepare(std::size_t chunk);
    double forecast_tiebreak(std::uint32_t limit) const;
    void advance(std::size_t chunk);
    void fetch(std::size_t chunk, std::size_t ahead) const;
    void visit(std::size_t chunk, Levels::Bucket bucket);
    bool seen_before(std::uint64_t code, std::size_t chunk) const;
    void collect(const Column& column, Kind kind, const std::uint32_t* sums, std::size_t begin, std::size_t end,
                 std::uint32_t bucket_key);
    void offer(std::uint64_t code, std::uint32_t unique, std::uint32_t key);
    std::uint32_t scan_limit() const;
    std::uint64_t rows_of(std::uint32_t unique) const;
    std::uint32_t first_row(std::uint32_t unique) const;
    void weigh();
    void resolve(std::size_t begin, std::size_t end);
    void thin_out();
    void take(std::size_t begin, std::size_t end);

    const Index* index_ = nullptr;
    const Kernels* kernels_ = nullptr;
    const Costs* costs_ = nullptr;
    Allowed allowed_ = nullptr;
    Keys keys_{Rank::weighted};
    std::uint64_t code_ = 0, k_ = 0;
    std::uint32_t bit_keys_[kMaxBits] = {};
    bool ordered_ = false;     // candidates come in the order of rows: at the limit itself the first ones win
    std::size_t weighed_ = 0;  // candidates whose rows are counted, not only the code
    std::size_t thin_at_ = 0;
    std::size_t looked_at_ = 0;  // codes
    double cost_ = 0;
    Spent spent_;
    Limit limit_;
    std::vector<Side> sides_;
    std::vector<std::uint32_t> scan_sums_;
    std::vector<Ranked> candidates_;
    std::vector<std::uint32_t> rows_, row_keys_;
    FirstRows first_;
};

// A scan's steps: of so many words, or buckets, that they stay in a core's cache for several queries.
struct Steps {
    std::size_t count, each;

    explicit Steps(const Index& index);
};

}  // namespace qo
