// One search: k nearest rows, or all within a radius.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "first_rows.h"
#include "index.h"
#include "margins.h"

namespace qo {

constexpr std::uint64_t kAll = std::numeric_limits<std::uint64_t>::max();

// What a search did, for explain.
struct Spent {
    std::uint64_t buckets = 0;  // looked up in chunks
    std::uint64_t codes = 0;    // compared, the scan's included
    int shells = 0;             // steps (a shell of one chunk) that were finished
    bool scanned = false;
};

// A code that may be among the results.
struct Candidate {
    std::uint64_t code;
    std::uint32_t unique;  // its number, or kUnknown
    std::uint8_t distance;
    bool weighed;  // its rows are counted
};
// A code whose high half is still to be looked at. distance: without it.
struct Half {
    std::uint32_t position, value;
    std::uint8_t distance;
};
constexpr std::size_t kHalves = 64;  // that are fetched from memory at once
constexpr std::uint64_t kUsualRows = 16;  // searches for up to so many rows start from Index::usual
constexpr std::uint32_t kUnknown = std::numeric_limits<std::uint32_t>::max();
constexpr std::uint8_t kGone = 255;  // a distance beyond every limit: none of its rows may be found

// The search of one query. Reused for many: its memory stays.
class Query {
  public:
    // Rows [count] and, in `groups`, how many of them lie at each distance. Of a search by margins also the squares, and the
    // rows whose margins are unknown: where there are any, the rest is not what was searched for.
    struct Found {
        const std::uint32_t* rows;
        std::size_t count;
        const std::uint64_t* groups;  // [bits + 1]
        const std::int32_t* squares;  // [count]
        const std::vector<std::uint32_t>& unknown;
    };

    // At most k rows (kAll: any number) at distances <= limit. Equal distances by margins where there are some.
    Found run(const Index& index, const Kernels& kernels, std::uint64_t code, std::uint64_t k, int limit,
              Allowed allowed = nullptr, const Margins& margins = {}, std::size_t number = 0);
    const Spent& spent() const { return spent_; }

    // The same in steps, for a scan that several queries share.
    void start(const Index& index, const Kernels& kernels, std::uint64_t code, std::uint64_t k, int limit,
               Allowed allowed, const Margins& margins = {}, std::size_t number = 0);
    // Look-ups in chunks; whether that was enough. `alone`: a scan would be this query's own, not shared with others.
    bool look_up(bool alone);
    // Forget the candidates but not how near the k-th is: every code is offered again.
    void prepare_scan();
    // The words [begin, end).
    void scan_words(std::size_t begin, std::size_t end);
    int words_limit() const;
    std::uint64_t code() const { return code_; }
    Found finish();
    // Give back the memory of an unusually large search.
    void shrink();

    // Chunk 0's buckets in a row, for where there are no words. Public for calibration.
    void scan_buckets();
    bool look_up_shells(double budget, bool few);
    // One shell of one chunk; false when more than `budget` ns were spent since start().
    bool look_up_shell(std::size_t chunk, int shell, double budget);
    double cost() const { return cost_; }

  private:
    void forget();
    void fetch_nearest() const;
    double expected_cost(std::size_t chunk, int shell) const;
    double allowance(std::size_t chunk, int shell) const;
    void visit(std::size_t chunk, std::uint32_t value, int shell);
    int least_high(std::size_t chunk, int shell) const;
    bool by_halves(const Chunk& chunk, int shell, int high) const;
    void visit_low(std::size_t chunk, std::uint32_t value, int shell, int high);
    void settle(std::size_t chunk, int shell);
    void offer(std::uint64_t code, std::uint32_t unique, int distance);
    bool seen_before(std::uint64_t code, std::size_t chunk, int shell) const;
    std::uint64_t rows_of(std::uint32_t unique) const;
    void weigh(int upto);
    void resolve(Candidate* begin, Candidate* end, int upto);
    void count(int distance, std::uint64_t rows);
    void thin_out();
    void take(int distance, Candidate* begin, Candidate* end);
    void take_by_margins(int distance, const Candidate* begin, const Candidate* end);

    const Index* index_ = nullptr;
    const Kernels* kernels_ = nullptr;
    Allowed allowed_ = nullptr;
    std::uint64_t code_ = 0, k_ = 0;
    int limit_ = 0;               // a row beyond this distance is not among the results
    bool alone_ = false, few_ = false;
    bool ordered_ = false;        // candidates come in the order of rows: at the limit itself the first ones win
    std::uint64_t within_ = 0;    // rows counted at a distance <= limit_
    std::uint64_t counts_[kMaxBits + 1] = {};
    std::size_t weighed_ = 0;     // so many candidates, from the first on, need not be weighed any more
    std::size_t thin_at_ = 0;
    double cost_ = 0;
    Spent spent_;
    Half half_[kHalves] = {};
    std::size_t halves_ = 0;
    std::vector<Candidate> candidates_, sorted_;
    std::vector<std::uint32_t> rows_;
    FirstRows first_;
    FirstByMargins nearest_;
    std::vector<std::int32_t> squares_;
    std::uint64_t groups_[kMaxBits + 1] = {};
};

}  // namespace qo
