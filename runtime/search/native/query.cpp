#include "query.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace qo {
namespace {

constexpr std::size_t kPiece = 1024;      // codes of one call of a filter, after
constexpr std::size_t kFirstPiece = 64;   // the first ones, of which most get into the candidates
constexpr std::size_t kAhead = 32;        // look-ups under way at once
constexpr std::size_t kBucketsAhead = 3, kHalvesAhead = 8;
constexpr std::size_t kPrefetched = 512;  // codes of a bucket
constexpr double kWorth = 0.5, kWorthAtMost = 0.6;  // of the scan's cost: a forecast, and what comes of it
constexpr int kFewLow = 11;               // of 32 bits: few random codes differ in no more
constexpr std::size_t kUnweighed = 64;    // candidates of which nobody knows yet whether they may be found
constexpr std::size_t kSpareCandidates = 1 << 16;
constexpr std::size_t kLookUps = 15;      // that calibration measures
constexpr std::size_t kKeptEntries = 1 << 20;

// Bits of 16-bit numbers without the POPCNT instruction, which a plain build can't assume.
struct BitCounts {
    std::uint8_t of[256];
    constexpr BitCounts() : of() {
        for (int i = 1; i < 256; ++i) of[i] = static_cast<std::uint8_t>(of[i / 2] + i % 2);
    }
};
constexpr BitCounts kBits;
inline int bits16(std::uint32_t x) { return kBits.of[x & 255] + kBits.of[x >> 8]; }

std::size_t buckets_at(const Chunk& chunk, int shell) {
    const auto& all = masks().all[shell];
    // Masks ascend: those within the chunk come first.
    return static_cast<std::size_t>(chunk.width == kMaxChunkBits
                                        ? all.end() - all.begin()
                                        : std::lower_bound(all.begin(), all.end(), 1u << chunk.width) - all.begin());
}

// The processor's own prefetching starts too late for buckets of a few cache lines. `halves`: of codes in two halves, the
// low ones alone.
void fetch(const Chunk& chunk, std::uint32_t bucket, bool halves) {
    const std::uint32_t first = chunk.starts[bucket];
    const std::size_t end = std::min<std::size_t>(chunk.starts[bucket + 1], first + kPrefetched);
    if (halves) {
        chunk.rest.prefetch_low(first, end);
    } else {
        chunk.rest.prefetch(first, end);
    }
}

}  // namespace

Query::Found Query::run(const Index& index, const Kernels& kernels, std::uint64_t code, std::uint64_t k, int limit,
                        Allowed allowed, const Margins& margins, std::size_t number) {
    start(index, kernels, code, k, limit, allowed, margins, number);
    if (!look_up(true)) {
        prepare_scan();
        if (index.words.size()) {
            std::size_t at = 0;
            for (std::size_t piece = kFirstPiece; at < index.unique; at += piece, piece = kPiece) {
                scan_words(at, std::min(index.unique, at + piece));
            }
        } else {
            scan_buckets();
        }
    }
    return finish();
}

void Query::start(const Index& index, const Kernels& kernels, std::uint64_t code, std::uint64_t k, int limit,
                  Allowed allowed, const Margins& margins, std::size_t number) {
    index_ = &index;
    kernels_ = &kernels;
    allowed_ = allowed;
    code_ = code;
    k_ = k;
    limit_ = std::min(limit, index.bits);
    nearest_.start(margins, number, index.bits, kernels.squares);
    ordered_ = index.structure == Structure::scan && !nearest_.used();
    thin_at_ = 0;
    cost_ = 0;
    spent_ = {};
    forget();
}

bool Query::look_up(bool alone) {
    alone_ = alone;
    if (index_->n == 0) return true;
    if (index_->chunks.empty() || (k_ >= index_->n && k_ != kAll)) return false;
    const double budget = index_->costs.budget();
    fetch_nearest();
    if (k_ <= kUsualRows && index_->usual < limit_) {
        // Most searches end within the usual distance. To know that from the start spares them all the candidates that
        // are only there until nearer ones come; the others begin again.
        const int limit = limit_;
        limit_ = index_->usual;
        const bool enough = look_up_shells(budget, true);
        if (within_ >= k_) return enough;
        limit_ = limit;
        if (!enough) return false;
        forget();
    }
    return look_up_shells(budget, k_ == kAll);
}

// A code's distance is at least the sum of its distances in the chunks, so once every chunk i was searched up to r_i,
// all codes within sum(r_i + 1) - 1 have been found. `few`: that this is the limit suffices, with any number of rows.
bool Query::look_up_shells(double budget, bool few) {
    int complete = -1;
    few_ = few;
    for (int shell = 0;; ++shell) {
        for (std::size_t i = 0; i < index_->chunks.size(); ++i) {
            const Chunk& chunk = index_->chunks[i];
            if (shell > chunk.width) return true;  // every bucket of this chunk was seen
            if (!look_up_shell(i, shell, budget)) return false;
            ++complete;
            ++spent_.shells;
            if (limit_ <= complete && (few || within_ >= k_)) return true;
            if (k_ != kAll) {
                // Only what is certainly near decides whether that was enough.
                weigh(complete);
                if (limit_ <= complete && within_ >= k_) return true;
            }
        }
    }
}

// Nearly every search looks into the query's own bucket of each chunk: all of them are on their way from memory while
// the first is searched.
void Query::fetch_nearest() const {
    for (const Chunk& chunk : index_->chunks) __builtin_prefetch(chunk.starts.data() + chunk.value(code_));
    for (const Chunk& chunk : index_->chunks) fetch(chunk, chunk.value(code_), false);
    if (index_->first.size()) __builtin_prefetch(index_->first.data() + index_->chunks[0].starts[index_->chunks[0].value(code_)]);
}

// ns of one shell of one chunk, going by what it holds on average.
double Query::expected_cost(std::size_t at, int shell) const {
    const Chunk& chunk = index_->chunks[at];
    const auto count = static_cast<double>(buckets_at(chunk, shell));
    const double codes = shell < kExpectedShells ? chunk.expected[shell]
                                                 : count * static_cast<double>(index_->unique) /
                                                       static_cast<double>(std::size_t{1} << chunk.width);
    return count * index_->costs.bucket + codes * index_->costs.code;
}

// ns that look-ups may cost where it can be told what they will in all: the k-th code found so far is as far as the last
// one can be. More than the usual share of the scan's cost then, where it should be worth it.
double Query::allowance(std::size_t at, int shell) const {
    if (!alone_ || !(few_ || within_ >= k_)) return 0;
    const std::size_t chunks = index_->chunks.size();
    const double most = kWorth * index_->costs.scan;
    double forecast = cost_;
    for (std::size_t step = static_cast<std::size_t>(shell) * chunks + at;
         step <= static_cast<std::size_t>(limit_) && forecast <= most; ++step) {
        const auto further = static_cast<int>(step / chunks);
        if (further > index_->chunks[step % chunks].width) break;
        forecast += expected_cost(step % chunks, further);
    }
    return forecast <= most ? kWorthAtMost * index_->costs.scan : 0;
}

bool Query::look_up_shell(std::size_t at, int shell, double budget) {
    if (shell > limit_) return true;  // nothing there is near enough
    const Chunk& chunk = index_->chunks[at];
    const auto& all = masks().all[shell];
    const std::size_t count = buckets_at(chunk, shell);
    const Costs& costs = index_->costs;
    if (cost_ + expected_cost(at, shell) > budget) {
        budget = std::max(budget, allowance(at, shell));
        if (cost_ + expected_cost(at, shell) > budget) return false;
    }
    const std::uint32_t value = chunk.value(code_);
    const std::uint32_t* starts = chunk.starts.data();
    std::uint32_t values[kAhead];
    const int high = least_high(at, shell);
    for (std::size_t begin = 0; begin < count; begin += kAhead) {
        const std::size_t n = std::min(kAhead, count - begin);
        std::size_t filled = 0, codes = 0;
        // Misses of the cache overlap: first the table's, then those of the codes themselves.
        for (std::size_t i = 0; i < n; ++i) {
            values[i] = value ^ all[begin + i];
            if (count > kAhead) __builtin_prefetch(starts + values[i]);
        }
        for (std::size_t i = 0; i < n; ++i) {
            const std::uint32_t bucket = values[i], first = starts[bucket], last = starts[bucket + 1];
            values[filled] = bucket;
            if (first != last) {
                codes += last - first;
                ++filled;
            }
        }
        spent_.buckets += n;
        spent_.codes += codes;
        cost_ += static_cast<double>(n) * costs.bucket + static_cast<double>(codes) * costs.code;
        if (cost_ > budget) return false;
        const bool halves = by_halves(chunk, shell, high);
        const std::size_t ahead = halves ? kHalvesAhead : kBucketsAhead;
        for (std::size_t i = 0; i < std::min(filled, ahead) && shell > 0; ++i) fetch(chunk, values[i], halves);
        for (std::size_t i = 0; i < filled; ++i) {
            if (i + ahead < filled) fetch(chunk, values[i + ahead], halves);
            if (by_halves(chunk, shell, high)) {
                visit_low(at, values[i], shell, high);
            } else {
                visit(at, values[i], shell);
            }
        }
    }
    settle(at, shell);
    return true;
}

// At least so many of the high 16 bits differ in a code of two halves that no earlier step has found. They are the top of
// the first other chunk, of which every code up to this shell (or the one before it) was found there.
int Query::least_high(std::size_t at, int shell) const {
    if (index_->chunks.size() < 2) return 0;
    const Chunk& other = index_->chunks[at == 0 ? 1 : 0];
    const int high_bits = index_->bits - index_->chunks[at].width - 32;
    return std::max(0, (at == 0 ? shell : shell + 1) - std::max(0, other.width - high_bits));
}

// Whether the low halves alone rule out nearly every code, so that the high ones need not come from memory.
bool Query::by_halves(const Chunk& chunk, int shell, int high) const {
    return shell > 0 && chunk.rest.kind() == Kind::u48 && limit_ - shell - high <= kFewLow;
}

void Query::visit_low(std::size_t at, std::uint32_t value, int shell, int high) {
    const Chunk& chunk = index_->chunks[at];
    const Filter filter = kernels_->filter[static_cast<int>(Kind::u32)];
    const Column column = chunk.rest.column();
    const std::uint64_t rest = chunk.rest_of(code_) & 0xffffffffu;
    std::uint32_t positions[kPiece + kSlack];
    std::uint8_t distances[kPiece + kSlack];
    const std::size_t end = chunk.starts[value + 1];
    for (std::size_t begin = chunk.starts[value]; begin < end && limit_ >= shell + high; begin += kPiece) {
        const std::size_t piece = std::min(end - begin, kPiece);
        const std::size_t n = filter(column, begin, begin + piece, rest, limit_ - shell - high, positions, distances);
        for (std::size_t i = 0; i < n; ++i) {
            if (halves_ == kHalves) settle(at, shell);
            __builtin_prefetch(column.high + positions[i]);
            half_[halves_++] = {positions[i], value, static_cast<std::uint8_t>(shell + distances[i])};
        }
    }
}

// The high halves of the codes that visit_low has left; they are there by now.
void Query::settle(std::size_t at, int shell) {
    if (halves_ == 0) return;
    const Chunk& chunk = index_->chunks[at];
    const std::uint16_t* high = chunk.rest.column().high;
    const auto wanted = static_cast<std::uint32_t>(chunk.rest_of(code_) >> 32);
    for (std::size_t i = 0; i < halves_; ++i) {
        const Half& half = half_[i];
        const int distance = half.distance + bits16(high[half.position] ^ wanted);
        if (distance > limit_) continue;
        const std::uint64_t code = chunk.join(half.value, chunk.rest.get(half.position));
        if (index_->chunks.size() > 1 && seen_before(code, at, shell)) continue;
        offer(code, at == 0 ? half.position : kUnknown, distance);
    }
    halves_ = 0;
}

void Query::visit(std::size_t at, std::uint32_t value, int shell) {
    const Chunk& chunk = index_->chunks[at];
    std::size_t begin = chunk.starts[value];
    const std::size_t end = chunk.starts[value + 1];
    if (chunk.rest.kind() == Kind::none) {
        offer(chunk.join(value, 0), static_cast<std::uint32_t>(begin), shell);
        return;
    }
    const Filter filter = kernels_->filter[static_cast<int>(chunk.rest.kind())];
    const Column column = chunk.rest.column();
    const std::uint64_t rest = chunk.rest_of(code_);
    std::uint32_t positions[kPiece + kSlack];
    std::uint8_t distances[kPiece + kSlack];
    while (begin < end && limit_ >= shell) {
        const std::size_t piece = std::min(end - begin, within_ < k_ && k_ != kAll ? kFirstPiece : kPiece);
        const std::size_t n = filter(column, begin, begin + piece, rest, limit_ - shell, positions, distances);
        for (std::size_t i = 0; i < n; ++i) {
            const int distance = shell + distances[i];
            if (distance > limit_) continue;
            const std::uint64_t code = chunk.join(value, chunk.rest.get(positions[i]));
            if (index_->chunks.size() > 1 && seen_before(code, at, shell)) continue;
            offer(code, at == 0 ? positions[i] : kUnknown, distance);
        }
        begin += piece;
    }
}

// Shells go outwards, and at each the chunks follow one another: whether an earlier step has found this code.
bool Query::seen_before(std::uint64_t code, std::size_t at, int shell) const {
    for (std::size_t i = 0; i < index_->chunks.size(); ++i) {
        if (i == at) continue;
        const Chunk& chunk = index_->chunks[i];
        const int distance = bits16(chunk.value(code ^ code_));
        if (distance < shell + (i < at ? 1 : 0)) return true;
    }
    return false;
}

void Query::offer(std::uint64_t code, std::uint32_t unique, int distance) {
    candidates_.push_back({code, unique, static_cast<std::uint8_t>(distance), false});
    if (allowed_ == nullptr) {
        count(distance, 1);
    } else if (candidates_.size() - weighed_ >= kUnweighed) {
        weigh(limit_);
    }
}

void Query::count(int distance, std::uint64_t rows) {
    counts_[distance] += rows;
    within_ += rows;
    while (within_ - counts_[limit_] >= k_) within_ -= counts_[limit_--];
}

// The rows of a code, as far as they may be found, and no more than matter.
std::uint64_t Query::rows_of(std::uint32_t unique) const {
    if (index_->structure == Structure::scan) return allowed_ == nullptr || allows(allowed_, unique) ? 1 : 0;
    const std::uint32_t begin = index_->begin(unique), end = index_->end(unique);
    if (allowed_ == nullptr) return end - begin;
    std::uint64_t rows = 0;
    for (std::uint32_t i = begin; i < end && rows < k_; ++i) rows += allows(allowed_, index_->postings[i]);
    return rows;
}

// So far every candidate counts as one row, or (with a mask) as none. Now their rows: duplicates end many searches
// early, and only rows that may be found end any.
void Query::weigh(int upto) {
    if (allowed_ == nullptr && index_->first.size() == 0) return;  // one row each
    upto = std::min(upto, limit_);
    const bool all = upto == limit_;
    resolve(candidates_.data() + weighed_, candidates_.data() + candidates_.size(), upto);
    for (std::size_t i = weighed_; i < candidates_.size(); ++i) {
        Candidate& candidate = candidates_[i];
        if (candidate.weighed || candidate.distance > std::min(upto, limit_)) continue;
        candidate.weighed = true;
        const std::uint64_t rows = rows_of(candidate.unique);
        if (rows == 0) {
            candidate.distance = kGone;
        } else {
            count(candidate.distance, allowed_ == nullptr ? rows - 1 : rows);
        }
    }
    if (all) weighed_ = candidates_.size();
}

// The numbers of those that can still be among the results.
void Query::resolve(Candidate* begin, Candidate* end, int upto) {
    constexpr std::size_t piece = 64;
    std::uint64_t codes[piece];
    std::uint32_t numbers[piece];
    Candidate* places[piece];
    std::size_t n = 0;
    const auto flush = [&] {
        index_->find(codes, n, numbers);
        for (std::size_t i = 0; i < n; ++i) {
            places[i]->unique = numbers[i];
            if (index_->first.size()) __builtin_prefetch(&index_->first[numbers[i]]);
        }
        n = 0;
    };
    for (Candidate* candidate = begin; candidate < end; ++candidate) {
        if (candidate->unique != kUnknown || candidate->distance > upto) continue;
        codes[n] = candidate->code;
        places[n++] = candidate;
        if (n == piece) flush();
    }
    if (n > 0) flush();
}

void Query::forget() {
    candidates_.clear();
    halves_ = 0;
    within_ = 0;
    weighed_ = 0;
    std::fill(std::begin(counts_), std::end(counts_), 0);
}

void Query::prepare_scan() {
    spent_.scanned = true;
    forget();
    thin_at_ = (k_ < index_->n ? 2 * k_ : 0) + kSpareCandidates;
}

int Query::words_limit() const { return ordered_ && within_ >= k_ ? limit_ - 1 : limit_; }

void Query::scan_words(std::size_t begin, std::size_t end) {
    const Filter filter = kernels_->filter[static_cast<int>(index_->words.kind())];
    std::uint32_t positions[kPiece + kSlack];
    std::uint8_t distances[kPiece + kSlack];
    while (begin < end) {
        const std::size_t piece = std::min(end - begin, kPiece);
        const int limit = words_limit();
        if (limit < 0) return;
        const std::size_t n = filter(index_->words.column(), begin, begin + piece, code_, limit, positions, distances);
        for (std::size_t i = 0; i < n; ++i) {
            if (distances[i] <= words_limit()) offer(0, positions[i], distances[i]);
        }
        if (n > 0 && k_ != kAll) weigh(limit_);
        spent_.codes += piece;
        begin += piece;
        if (candidates_.size() > thin_at_) thin_out();
    }
}

void Query::scan_buckets() {
    const Chunk& chunk = index_->chunks[0];
    const std::uint32_t value = chunk.value(code_);
    const std::size_t buckets = std::size_t{1} << chunk.width;
    const std::uint32_t* starts = chunk.starts.data();
    const Filter filter = kernels_->filter[static_cast<int>(chunk.rest.kind())];
    const Column column = chunk.rest.column();
    const std::uint64_t rest = chunk.rest_of(code_);
    std::uint32_t positions[kPiece + kSlack];
    std::uint8_t distances[kPiece + kSlack];
    for (std::uint32_t b = 0; b < buckets; ++b) {
        const int shell = bits16(b ^ value);
        std::size_t begin = starts[b];
        const std::size_t end = starts[b + 1];
        for (; begin < end && shell <= limit_; begin += kPiece) {
            const std::size_t piece = std::min(kPiece, end - begin);
            spent_.codes += piece;
            const std::size_t n = filter(column, begin, begin + piece, rest, limit_ - shell, positions, distances);
            for (std::size_t i = 0; i < n; ++i) {
                if (shell + distances[i] <= limit_) offer(0, positions[i], shell + distances[i]);
            }
            if (n > 0 && k_ != kAll) weigh(limit_);
            if (candidates_.size() > thin_at_) thin_out();
        }
    }
}

// Let go of candidates beyond the limit, so that memory stays in proportion to the results.
void Query::thin_out() {
    if (allowed_ != nullptr) weigh(limit_);
    const std::uint64_t nearer = within_ - counts_[limit_];
    std::uint64_t at_limit = 0;
    const auto gone = std::remove_if(candidates_.begin(), candidates_.end(), [&](const Candidate& candidate) {
        if (candidate.distance < limit_) return false;
        return candidate.distance > limit_ || (ordered_ && nearer + at_limit++ >= k_);
    });
    candidates_.erase(gone, candidates_.end());
    weighed_ = candidates_.size();
    thin_at_ = std::max(thin_at_, 2 * candidates_.size());
}

Query::Found Query::finish() {
    if (allowed_ != nullptr) weigh(limit_);
    rows_.clear();
    squares_.clear();
    std::fill(std::begin(groups_), std::end(groups_), 0);
    // By distance, in the order found.
    std::size_t places[kMaxBits + 2] = {};
    for (const Candidate& candidate : candidates_) {
        if (candidate.distance <= limit_) ++places[candidate.distance + 1];
    }
    for (int d = 0; d <= kMaxBits; ++d) places[d + 1] += places[d];
    sorted_.resize(places[kMaxBits + 1]);
    std::size_t cursor[kMaxBits + 1];
    std::copy(places, places + kMaxBits + 1, cursor);
    for (const Candidate& candidate : candidates_) {
        if (candidate.distance <= limit_) sorted_[cursor[candidate.distance]++] = candidate;
    }
    for (int d = 0; d <= limit_ && rows_.size() < k_; ++d) {
        if (places[d] < places[d + 1]) take(d, sorted_.data() + places[d], sorted_.data() + places[d + 1]);
    }
    return {rows_.data(), rows_.size(), groups_, squares_.data(), nearest_.unknown()};
}

void Query::shrink() {
    if (candidates_.capacity() + sorted_.capacity() + rows_.capacity() + squares_.capacity() + first_.capacity() +
            nearest_.capacity() >
        kKeptEntries) {
        *this = Query();
    }
}

// The first rows of these codes, all at one distance: as many as are still wanted.
void Query::take(int distance, Candidate* begin, Candidate* end) {
    if (nearest_.used()) {
        if (index_->structure != Structure::scan) resolve(begin, end, limit_);
        return take_by_margins(distance, begin, end);
    }
    const std::size_t before = rows_.size();
    const std::uint64_t wanted = k_ - before;
    if (index_->structure == Structure::scan) {
        for (const Candidate* c = begin; c < end && rows_.size() < k_; ++c) rows_.push_back(c->unique);
        groups_[distance] = rows_.size() - before;
        return;
    }
    first_.start(wanted);
    resolve(begin, end, limit_);
    for (const Candidate* c = begin; c < end; ++c) __builtin_prefetch(&index_->postings[index_->begin(c->unique)]);
    for (const Candidate* c = begin; c < end; ++c) first_.add_code(*index_, c->unique, allowed_);
    const std::vector<std::uint32_t>& group = first_.sorted();
    rows_.insert(rows_.end(), group.begin(), group.end());
    groups_[distance] = group.size();
}

void Query::take_by_margins(int distance, const Candidate* begin, const Candidate* end) {
    nearest_.start_group(k_ - rows_.size());
    if (index_->structure == Structure::scan) {
        for (const Candidate* c = begin; c < end; ++c) nearest_.add_row(c->unique);
    } else {
        for (const Candidate* c = begin; c < end; ++c) __builtin_prefetch(&index_->postings[index_->begin(c->unique)]);
        for (const Candidate* c = begin; c < end; ++c) {
            const std::uint32_t last = index_->end(c->unique);
            for (std::uint32_t i = index_->begin(c->unique); i < last; ++i) {
                const std::uint32_t row = index_->postings[i];
                if (allowed_ == nullptr || allows(allowed_, row)) nearest_.add_row(row);
            }
        }
    }
    const std::vector<std::uint64_t>& group = nearest_.sorted();
    for (const std::uint64_t key : group) {
        rows_.push_back(FirstByMargins::row_of(key));
        squares_.push_back(FirstByMargins::square_of(key));
    }
    groups_[distance] = group.size();
}

void calibrate(Index& index, const Kernels& kernels) {
    if (index.chunks.empty() || index.unique == 0) return;
    using Clock = std::chrono::steady_clock;
    const auto since = [](Clock::time_point start) {
        return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
    };
    Query query;
    const auto sample = [&](std::size_t i) { return index.code(index.unique / 8 * i); };
    // The best of a few: whatever else the machine does only adds.
    double scan = INFINITY;
    const int limit = index.bits / 3;  // about what a query far from all codes comes with
    const std::size_t scans = index.unique > 10'000'000 ? 2 : 4;
    for (std::size_t i = 0; i < scans; ++i) {
        query.start(index, kernels, sample(i), 10, limit, nullptr);
        query.prepare_scan();
        const auto start = Clock::now();
        if (index.words.size()) {
            query.scan_words(0, index.unique);
        } else {
            query.scan_buckets();
        }
        scan = std::min(scan, since(start));
    }
    index.costs.scan = std::max(scan, 100.0);
    index.costs.code = index.costs.scan / static_cast<double>(index.unique);
    const int near = index.bits / 5;  // about the limit that a look-up of that shell comes with
    // Look-ups of the second shell around codes that are there; what their codes cost is known from the scan.
    // The median: each looks elsewhere, so none is typical, and some are interrupted.
    std::vector<double> costs;
    for (std::size_t i = 0; i < kLookUps; ++i) {
        query.start(index, kernels, index.code(index.unique / kLookUps * i), 10, near, nullptr);
        const auto start = Clock::now();
        for (std::size_t chunk = 0; chunk < index.chunks.size(); ++chunk) query.look_up_shell(chunk, 2, INFINITY);
        const double spent = since(start) - static_cast<double>(query.spent().codes) * index.costs.code;
        const std::uint64_t buckets = query.spent().buckets;
        if (buckets > 0) costs.push_back(std::max(spent / static_cast<double>(buckets), 1.0));
    }
    std::sort(costs.begin(), costs.end());
    index.costs.bucket = costs.empty() ? 1.0 : std::min(costs[costs.size() / 2], 500.0);
    // How far the last of a few rows is from a row's code, mostly. Rows, as queries are where most pictures are.
    std::vector<int> distances;
    std::size_t scanned = 0;
    for (std::size_t i = 0; i < kLookUps; ++i) {
        const Query::Found found = query.run(index, kernels, code_of_posting(index, index.n / kLookUps * i), kUsualRows, index.bits);
        int last = 0;
        for (int d = 0; d <= index.bits; ++d) last = found.groups[d] ? d : last;
        distances.push_back(last);
        scanned += query.spent().scanned;
    }
    std::sort(distances.begin(), distances.end());
    index.usual = distances[kLookUps - 1 - kLookUps / 4];
    // Where most searches end in a scan, little is spent before it: enough to find what equals the query.
    if (2 * scanned > kLookUps) index.costs.share = kLeastShare;
}

}  // namespace qo
