#include "rank.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "levels.h"
#include "parallel.h"

namespace qo {
namespace {

constexpr std::size_t kFirstPiece = 64;  // codes of the first call of weigh, of which most get into the candidates
constexpr std::size_t kPiece = 1024;     // of one when the k-th key is known well
constexpr std::size_t kAhead = 8;        // buckets of each chunk that are known before they are looked at
constexpr std::size_t kFetched = 4;      // of these, the next ones, whose codes are on their way
constexpr std::size_t kPrefetched = 256;  // codes of a bucket
constexpr std::size_t kSpareCandidates = 1 << 16;
constexpr std::size_t kKeptEntries = 1 << 20;
constexpr std::size_t kTogether = 64;
constexpr std::size_t kBlockBytes = 1 << 18;
constexpr std::size_t kWorthThreads = 256;

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

// The look-up tables of weigh for codes of one kind; keys: of their bits, from the lowest.
void fill_sums(std::uint32_t* sums, Kind kind, int group, std::uint64_t query, const std::uint32_t* keys, int bits) {
    const int used = kind == Kind::u8 ? 8 : kind == Kind::u16 ? 16 : kind == Kind::u32 ? 32 : kind == Kind::u48 ? 48 : 64;
    for (int half = 0; half < used; half += 32) {
        const int end = std::min(half + 32, used);
        for (int first = half; first < end; first += group, sums += std::size_t{1} << group) {
            const int count = std::min(group, end - first);
            // From the sum of code 0 on, each bit doubles what is there. Differences may be negative: modulo 2^32.
            sums[0] = 0;
            for (int i = 0; i < count; ++i) {
                const std::uint32_t key = first + i < bits ? keys[first + i] : 0;
                const bool set = query >> (first + i) & 1;
                if (set) {
                    for (std::uint32_t v = 0; v < 1u << i; ++v) {
                        sums[v | 1u << i] = sums[v];
                        sums[v] += key;
                    }
                } else {
                    for (std::uint32_t v = 0; v < 1u << i; ++v) sums[v | 1u << i] = sums[v] + key;
                }
            }
            std::fill(sums + (std::size_t{1} << count), sums + (std::size_t{1} << group), 0);
        }
    }
}

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
    // Look-ups in chunks for at most `budget` ns; whether that was enough.
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
    double cost() const { return cost_; }

  private:
    // One chunk: the buckets to come, the nearest of them in a ring, and the look-up tables of its codes.
    struct Side {
        Levels levels;
        Levels::Bucket ring[kAhead];
        std::size_t front = 0;
        std::uint64_t taken = 0;
        std::uint32_t sums[kMaxSums];
        std::uint32_t next() const { return ring[front % kAhead].key; }
    };

    void prepare(std::size_t chunk);
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
    std::vector<std::uint32_t> rows_, row_keys_, group_;
};

void RankedQuery::start(const Request& request, const Weights& weights, const Costs& costs, std::size_t query,
                        std::uint64_t k) {
    index_ = &request.index;
    kernels_ = &request.kernels;
    costs_ = &costs;
    allowed_ = request.allowed;
    keys_ = {weights.rank};
    code_ = request.queries[query];
    k_ = k;
    const auto bits = static_cast<std::size_t>(index_->bits);
    for (std::size_t i = 0; i < bits; ++i) bit_keys_[i] = keys_.of_bit(weights.of[query * bits + i]);
    ordered_ = index_->structure == Structure::scan;
    weighed_ = 0;
    thin_at_ = std::numeric_limits<std::size_t>::max();
    looked_at_ = 0;
    cost_ = 0;
    spent_ = {};
    limit_.start(k, kNever);
    candidates_.clear();
}

void RankedQuery::prepare(std::size_t at) {
    const Chunk& chunk = index_->chunks[at];
    Side& side = sides_[at];
    side.levels.start(chunk.value(code_), bit_keys_ + chunk.shift, chunk.width);
    side.front = 0;
    side.taken = 0;
    for (auto& bucket : side.ring) {
        bucket = side.levels.next();
        if (bucket.key != kNever) __builtin_prefetch(&chunk.starts[bucket.value]);
    }
    if (chunk.rest.kind() == Kind::none) return;
    std::uint32_t keys[kMaxBits];
    const int rest = index_->bits - chunk.width;
    std::copy(bit_keys_, bit_keys_ + chunk.shift, keys);
    std::copy(bit_keys_ + chunk.shift + chunk.width, bit_keys_ + index_->bits, keys + chunk.shift);
    fill_sums(side.sums, chunk.rest.kind(), kernels_->group, chunk.rest_of(code_), keys, rest);
    for (std::size_t i = 0; i < kFetched; ++i) fetch(at, i);
}

// The codes of a bucket to come.
void RankedQuery::fetch(std::size_t at, std::size_t ahead) const {
    const Side& side = sides_[at];
    const Levels::Bucket& bucket = side.ring[(side.front + ahead) % kAhead];
    if (bucket.key == kNever) return;
    const Chunk& chunk = index_->chunks[at];
    const std::uint32_t first = chunk.starts[bucket.value];
    const std::size_t last = std::min<std::size_t>(chunk.starts[bucket.value + 1], first + kPrefetched);
    if (first < last) chunk.rest.prefetch(first, last);
}

void RankedQuery::advance(std::size_t at) {
    Side& side = sides_[at];
    const Levels::Bucket bucket = side.levels.next();
    side.ring[side.front++ % kAhead] = bucket;
    ++side.taken;
    const Chunk& chunk = index_->chunks[at];
    if (bucket.key != kNever) __builtin_prefetch(&chunk.starts[bucket.value]);
    fetch(at, kFetched);
}

bool RankedQuery::look_up(double budget) {
    if (index_->n == 0) return true;
    if (index_->chunks.empty() || k_ >= index_->n) return false;
    const std::size_t count = index_->chunks.size();
    sides_.resize(count);
    for (std::size_t i = 0; i < count; ++i) prepare(i);
    std::uint64_t weigh_at = 2 * count;
    while (true) {
        // Until some level is looked at, its chunk tells nothing more of codes that none has come to.
        std::uint64_t unseen = 0;
        std::size_t chunk = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint32_t next = sides_[i].next();
            if (next == kNever) return true;
            unseen += next;
            if (next < sides_[chunk].next()) chunk = i;
        }
        // At the limit itself a code not seen may still come first by its row.
        if (unseen > limit_.get()) return true;
        const std::uint32_t level = sides_[chunk].next();
        do {
            const Levels::Bucket bucket = sides_[chunk].ring[sides_[chunk].front % kAhead];
            const std::uint32_t* starts = index_->chunks[chunk].starts.data() + bucket.value;
            const std::uint32_t codes = starts[1] - starts[0];
            cost_ += costs_->bucket + static_cast<double>(codes) * costs_->code;
            if (cost_ > budget) return false;
            ++spent_.buckets;
            spent_.codes += codes;
            if (codes > 0 && bucket.key <= limit_.get()) visit(chunk, bucket);
            advance(chunk);
        } while (sides_[chunk].next() == level);
        ++spent_.shells;
        if (spent_.buckets >= weigh_at) {
            weigh();
            weigh_at = spent_.buckets + spent_.buckets / 2;
        }
    }
}

void RankedQuery::visit(std::size_t at, Levels::Bucket bucket) {
    const Chunk& chunk = index_->chunks[at];
    std::size_t begin = chunk.starts[bucket.value];
    const std::size_t end = chunk.starts[bucket.value + 1];
    if (chunk.rest.kind() == Kind::none) {
        offer(chunk.join(bucket.value, 0), static_cast<std::uint32_t>(begin), bucket.key);
        return;
    }
    const Weigh weigh = kernels_->weigh[static_cast<int>(chunk.rest.kind())];
    const Column column = chunk.rest.column();
    std::uint32_t positions[kPiece + kSlack], keys[kPiece + kSlack], numbers[kPiece];
    std::uint64_t codes[kPiece];
    while (begin < end && bucket.key <= limit_.get()) {
        // The limit comes down with every piece, first in large steps.
        const std::size_t piece = std::min({end - begin, std::max(kFirstPiece, looked_at_), kPiece});
        const std::size_t n =
            weigh(column, begin, begin + piece, sides_[at].sums, limit_.get() - bucket.key, positions, keys);
        std::size_t kept = 0;
        for (std::size_t i = 0; i < n; ++i) {
            const std::uint32_t key = bucket.key + keys[i];
            if (key > limit_.get()) continue;
            const std::uint64_t code = chunk.join(bucket.value, chunk.rest.get(positions[i]));
            if (index_->chunks.size() > 1 && seen_before(code, at)) continue;
            const std::uint32_t unique = at == 0 ? positions[i] : kUnknown;
            if (allowed_ == nullptr) {
                offer(code, unique, key);
                continue;
            }
            codes[kept] = code;
            numbers[kept] = unique;
            keys[kept++] = key;
        }
        if (kept > 0) {
            if (at != 0) index_->find(codes, kept, numbers);
            cost_ += static_cast<double>(kept) * costs_->bucket;
            for (std::size_t i = 0; i < kept; ++i) offer(codes[i], numbers[i], keys[i]);
        }
        begin += piece;
        looked_at_ += piece;
    }
    if (candidates_.size() > kSpareCandidates && candidates_.size() / 2 > k_) thin_out();
}

// Whether another chunk has come to this code: it has to all of its levels below the next one.
bool RankedQuery::seen_before(std::uint64_t code, std::size_t at) const {
    for (std::size_t i = 0; i < index_->chunks.size(); ++i) {
        if (i == at) continue;
        const Chunk& chunk = index_->chunks[i];
        std::uint32_t key = 0;
        for (std::uint32_t bits = chunk.value(code ^ code_); bits; bits &= bits - 1) {
            key += bit_keys_[chunk.shift + __builtin_ctz(bits)];
        }
        if (key < sides_[i].next()) return true;
    }
    return false;
}

void RankedQuery::offer(std::uint64_t code, std::uint32_t unique, std::uint32_t key) {
    const std::uint64_t rows = allowed_ == nullptr ? 1 : rows_of(unique);
    if (rows == 0) return;
    candidates_.push_back({code, unique, key});
    limit_.add(key, rows);
}

// The rows of a code, as far as they may be found, and no more than matter.
std::uint64_t RankedQuery::rows_of(std::uint32_t unique) const {
    if (index_->structure == Structure::scan) return allowed_ == nullptr || allows(allowed_, unique) ? 1 : 0;
    const std::uint32_t begin = index_->begin(unique), end = index_->end(unique);
    if (allowed_ == nullptr) return end - begin;
    std::uint64_t rows = 0;
    for (std::uint32_t i = begin; i < end && rows < k_; ++i) rows += allows(allowed_, index_->postings[i]);
    return rows;
}

// The first row of a code that has one that may be found.
std::uint32_t RankedQuery::first_row(std::uint32_t unique) const {
    if (index_->structure == Structure::scan) return unique;
    std::uint32_t i = index_->begin(unique);
    while (allowed_ != nullptr && !allows(allowed_, index_->postings[i])) ++i;
    return index_->postings[i];
}

// So far every candidate counts as one row. Now the rest of their rows: duplicates end many searches early.
void RankedQuery::weigh() {
    if (allowed_ != nullptr || index_->first.size() == 0) return;  // counted, or one row each
    resolve(weighed_, candidates_.size());
    for (; weighed_ < candidates_.size(); ++weighed_) {
        const Ranked& candidate = candidates_[weighed_];
        if (candidate.key <= limit_.get()) limit_.add(candidate.key, rows_of(candidate.unique) - 1);
    }
}

// The numbers of those that can still be among the results.
void RankedQuery::resolve(std::size_t begin, std::size_t end) {
    constexpr std::size_t piece = 64;
    std::uint64_t codes[piece];
    std::uint32_t numbers[piece];
    std::size_t places[piece], n = 0;
    for (std::size_t i = begin; i <= end; ++i) {
        if (n == piece || (i == end && n > 0)) {
            index_->find(codes, n, numbers);
            for (std::size_t j = 0; j < n; ++j) {
                candidates_[places[j]].unique = numbers[j];
                if (index_->first.size()) __builtin_prefetch(&index_->first[numbers[j]]);
            }
            n = 0;
        }
        if (i == end) return;
        const Ranked& candidate = candidates_[i];
        if (candidate.unique != kUnknown || candidate.key > limit_.get()) continue;
        codes[n] = candidate.code;
        places[n++] = i;
    }
}

void RankedQuery::prepare_scan() {
    spent_.scanned = true;
    candidates_.clear();
    weighed_ = 0;
    limit_.start(k_, limit_.get());
    thin_at_ = (k_ < index_->n ? 2 * k_ : 0) + kSpareCandidates;
    const bool words = index_->words.size() > 0;
    if (!words && index_->unique == 0) return;
    const Chunk* chunk = words ? nullptr : &index_->chunks[0];
    const Kind kind = words ? index_->words.kind() : chunk->rest.kind();
    if (kind == Kind::none) return;
    const int bits = words ? index_->bits : index_->bits - chunk->width;
    std::uint32_t keys[kMaxBits];
    std::copy(bit_keys_, bit_keys_ + bits, keys);
    if (!words) {
        std::copy(bit_keys_, bit_keys_ + chunk->shift, keys);
        std::copy(bit_keys_ + chunk->shift + chunk->width, bit_keys_ + index_->bits, keys + chunk->shift);
    }
    scan_sums_.resize(kMaxSums);
    fill_sums(scan_sums_.data(), kind, kernels_->group, words ? code_ : chunk->rest_of(code_), keys, bits);
}

std::uint32_t RankedQuery::scan_limit() const {
    const std::uint32_t limit = limit_.get();
    return ordered_ && limit_.reached() ? limit - 1 : limit;  // no key below 0: kNever, where nothing may follow
}

// The codes [begin, end) of one array, all of one bucket (bucket_key) or of none.
void RankedQuery::collect(const Column& column, Kind kind, const std::uint32_t* sums, std::size_t begin,
                          std::size_t end, std::uint32_t bucket_key) {
    const Weigh look = kernels_->weigh[static_cast<int>(kind)];
    std::uint32_t positions[kPiece + kSlack], keys[kPiece + kSlack];
    while (begin < end) {
        if (limit_.get() < bucket_key || (ordered_ && limit_.reached() && limit_.get() == 0)) return;
        // Most of the first codes become candidates: the limit should soon know of them.
        const std::size_t piece = std::min(end - begin, limit_.reached() ? kPiece : kFirstPiece);
        const std::size_t n = look(column, begin, begin + piece, sums, scan_limit() - bucket_key, positions, keys);
        for (std::size_t i = 0; i < n; ++i) {
            if (ordered_ && limit_.reached() && bucket_key + keys[i] >= limit_.get()) continue;
            if (bucket_key + keys[i] <= limit_.get()) offer(0, positions[i], bucket_key + keys[i]);
        }
        if (n > 0) weigh();
        spent_.codes += piece;
        begin += piece;
        if (candidates_.size() > thin_at_) thin_out();
    }
}

void RankedQuery::scan(std::size_t begin, std::size_t end) {
    if (index_->words.size() > 0) {
        return collect(index_->words.column(), index_->words.kind(), scan_sums_.data(), begin, end, 0);
    }
    const Chunk& chunk = index_->chunks[0];
    const std::uint32_t value = chunk.value(code_);
    for (std::size_t bucket = begin; bucket < end; ++bucket) {
        const std::uint32_t first = chunk.starts[bucket], last = chunk.starts[bucket + 1];
        if (first == last) continue;
        std::uint32_t key = 0;
        for (auto bits = static_cast<std::uint32_t>(bucket) ^ value; bits; bits &= bits - 1) {
            key += bit_keys_[chunk.shift + __builtin_ctz(bits)];
        }
        if (key > limit_.get()) continue;
        if (chunk.rest.kind() == Kind::none) {
            offer(0, first, key);
        } else {
            collect(chunk.rest.column(), chunk.rest.kind(), scan_sums_.data(), first, last, key);
        }
    }
}

// Let go of candidates that are no longer among the first k, so that memory stays in proportion to the results.
void RankedQuery::thin_out() {
    weigh();
    const std::uint32_t limit = limit_.get();
    const auto at_limit = std::partition(candidates_.begin(), candidates_.end(),
                                         [&](const Ranked& candidate) { return candidate.key < limit; });
    const auto gone = std::partition(at_limit, candidates_.end(),
                                     [&](const Ranked& candidate) { return candidate.key == limit; });
    const auto nearer = static_cast<std::size_t>(at_limit - candidates_.begin());
    candidates_.erase(gone, candidates_.end());
    // Of those at the limit, at most k rows come into the results: they are among the k codes whose first rows come
    // first.
    if (candidates_.size() - nearer > k_) {
        resolve(nearer, candidates_.size());
        std::vector<std::pair<std::uint32_t, std::uint32_t>> firsts;  // first row, place
        firsts.reserve(candidates_.size() - nearer);
        for (std::size_t i = nearer; i < candidates_.size(); ++i) {
            firsts.emplace_back(first_row(candidates_[i].unique), static_cast<std::uint32_t>(i));
        }
        const auto kept = firsts.begin() + static_cast<std::ptrdiff_t>(k_);
        std::nth_element(firsts.begin(), kept, firsts.end());
        std::vector<Ranked> left;
        left.reserve(k_);
        for (auto first = firsts.begin(); first < kept; ++first) left.push_back(candidates_[first->second]);
        candidates_.resize(nearer);
        candidates_.insert(candidates_.end(), left.begin(), left.end());
    }
    weighed_ = candidates_.size();
    thin_at_ = std::max(thin_at_, 2 * candidates_.size());
}

RankedQuery::Found RankedQuery::finish() {
    rows_.clear();
    row_keys_.clear();
    const std::uint32_t limit = limit_.get();
    candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(),
                                     [&](const Ranked& candidate) { return candidate.key > limit; }),
                      candidates_.end());
    std::sort(candidates_.begin(), candidates_.end(), [](const Ranked& a, const Ranked& b) { return a.key < b.key; });
    if (index_->structure != Structure::scan) {
        resolve(0, candidates_.size());
        const std::size_t soon = std::min<std::size_t>(candidates_.size(), kPiece);
        for (std::size_t i = 0; i < soon; ++i) {
            __builtin_prefetch(&index_->postings[index_->begin(candidates_[i].unique)]);
        }
    }
    for (std::size_t begin = 0, end; begin < candidates_.size() && rows_.size() < k_; begin = end) {
        for (end = begin + 1; end < candidates_.size() && candidates_[end].key == candidates_[begin].key;) ++end;
        take(begin, end);
        row_keys_.resize(rows_.size(), candidates_[begin].key);
    }
    return {rows_.data(), row_keys_.data(), rows_.size()};
}

// The first rows of these codes, all of one key: as many as are still wanted.
void RankedQuery::take(std::size_t begin, std::size_t end) {
    const std::uint64_t wanted = k_ - rows_.size();
    group_.clear();
    std::uint32_t bound = kUnknown;  // only rows below can still be among the first `wanted`
    for (std::size_t at = begin; at < end; ++at) {
        const std::uint32_t unique = candidates_[at].unique;
        if (index_->structure == Structure::scan) {
            group_.push_back(unique);
        } else {
            const std::uint32_t last = index_->end(unique);
            std::uint64_t taken = 0;
            for (std::uint32_t i = index_->begin(unique); i < last && taken < wanted; ++i) {
                const std::uint32_t row = index_->postings[i];
                if (row >= bound) break;
                if (allowed_ != nullptr && !allows(allowed_, row)) continue;
                group_.push_back(row);
                ++taken;
            }
        }
        if (group_.size() > wanted && group_.size() - wanted > wanted + kPiece) {
            std::nth_element(group_.begin(), group_.begin() + static_cast<std::ptrdiff_t>(wanted), group_.end());
            group_.resize(wanted);
            bound = *std::max_element(group_.begin(), group_.end());
        }
    }
    if (end - begin > 1) std::sort(group_.begin(), group_.end());
    if (group_.size() > wanted) group_.resize(wanted);
    rows_.insert(rows_.end(), group_.begin(), group_.end());
}

void RankedQuery::shrink() {
    std::size_t kept = candidates_.capacity() + rows_.capacity() + row_keys_.capacity() + group_.capacity() +
                       limit_.capacity();
    for (const Side& side : sides_) kept += side.levels.capacity();
    if (kept > kKeptEntries) *this = RankedQuery();
}

// A scan's steps: of so many words, or buckets, that they stay in a core's cache for several queries.
struct Steps {
    std::size_t count, each;

    explicit Steps(const Index& index) {
        const bool words = index.words.size() > 0;
        count = words ? index.unique : index.chunks.empty() ? 0 : std::size_t{1} << index.chunks[0].width;
        const std::size_t bytes = words ? index.words.bytes() : count > 0 ? index.chunks[0].rest.bytes() : 0;
        each = std::max<std::size_t>(count * kBlockBytes / std::max<std::size_t>(bytes, 1), 1);
    }
};

RankedQuery::Found RankedQuery::run(const Request& request, const Weights& weights, const Costs& costs,
                                    std::size_t query, std::uint64_t k) {
    start(request, weights, costs, query, k);
    if (!look_up(request.index.share * costs.scan)) {
        prepare_scan();
        scan(0, Steps(request.index).count);
    }
    return finish();
}

// Runs every query and hands its results to done(query number, found).
template <class Done>
void each(const Request& request, const Weights& weights, const Costs& costs, std::uint64_t k, Done done) {
    const Index& index = request.index;
    const std::size_t count = request.queries.size();
    if (count == 1) {
        // A lone query, and the others of its thread, keep their memory from call to call.
        static thread_local RankedQuery one;
        done(0, one.run(request, weights, costs, 0, k));
        one.shrink();
        return;
    }
    // Starting a thread takes as long as some look-ups.
    const unsigned threads = count >= kWorthThreads || index.n >= kWorthThreads * kWorthThreads ? request.threads : 1;
    const std::size_t share = (count + threads - 1) / std::max(threads, 1u);
    const std::size_t grain = std::min(std::max<std::size_t>(share, 1), kTogether);
    const Steps steps(index);
    const double budget = index.share * costs.scan;
    parallel(count, grain, threads, [&](std::size_t begin, std::size_t end) {
        std::vector<RankedQuery> together;
        std::vector<std::size_t> numbers;
        RankedQuery query;
        for (std::size_t i = begin; i < end; ++i) {
            query.start(request, weights, costs, i, k);
            if (query.look_up(budget)) {
                done(i, query.finish());
                continue;
            }
            query.prepare_scan();
            together.push_back(std::move(query));
            query = RankedQuery();
            numbers.push_back(i);
        }
        for (std::size_t step = 0; step < steps.count && !together.empty(); step += steps.each) {
            for (RankedQuery& one : together) one.scan(step, std::min(steps.count, step + steps.each));
        }
        for (std::size_t i = 0; i < together.size(); ++i) {
            done(numbers[i], together[i].finish());
            together[i] = RankedQuery();
        }
    });
}

}  // namespace

void nearest_ranked(const Request& request, const Weights& weights, const Costs& costs, std::uint64_t k,
                    std::int64_t* ids, std::int32_t* distances, std::int32_t* scores) {
    if (k == 0) return;
    const Keys keys{weights.rank};
    each(request, weights, costs, k, [&](std::size_t query, const RankedQuery::Found& found) {
        const std::size_t first = query * k;
        for (std::size_t i = 0; i < found.count; ++i) {
            ids[first + i] = request.id(found.rows[i]);
            distances[first + i] = keys.distance(found.keys[i]);
            scores[first + i] = keys.score(found.keys[i]);
        }
        std::fill(ids + first + found.count, ids + first + k, -1);
        std::fill(distances + first + found.count, distances + first + k, request.index.bits + 1);
        std::fill(scores + first + found.count, scores + first + k, -1);
    });
}

std::vector<Spent> explain_ranked(const Request& request, const Weights& weights, const Costs& costs,
                                  std::uint64_t k) {
    std::vector<Spent> all;
    RankedQuery query;
    for (std::size_t i = 0; i < request.queries.size(); ++i) {
        if (k > 0) query.run(request, weights, costs, i, k);
        all.push_back(k > 0 ? query.spent() : Spent());
    }
    return all;
}

Costs calibrate_ranked(const Index& index, const Kernels& kernels) {
    if (index.chunks.empty() || index.unique == 0) return {};
    using Clock = std::chrono::steady_clock;
    const auto since = [](Clock::time_point start) {
        return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
    };
    constexpr std::size_t samples = 8;
    constexpr double buckets = 400;  // of one sample
    constexpr std::uint64_t k = 10;
    // Some bits matter little and some a lot. Queries half of whose bits are another code's are far from most codes:
    // they are looked up in as many buckets as they may be.
    std::uint16_t of[samples * kMaxBits];
    std::vector<std::uint64_t> queries;
    for (std::size_t i = 0; i < samples * kMaxBits; ++i) of[i] = static_cast<std::uint16_t>(i * 397 % 1021);
    for (std::size_t i = 0; i < samples; ++i) {
        const std::uint64_t one = index.code(index.unique / samples * i);
        const std::uint64_t other = index.code(index.unique / samples * ((i + 3) % samples));
        queries.push_back((one & 0x5555555555555555u) | (other & 0xaaaaaaaaaaaaaaaau));
    }
    const Weights weights{of, Rank::weighted};
    const Request request{index, kernels, queries, nullptr, nullptr, 1};
    Costs costs{INFINITY, 1, 0};  // look-ups are counted, one each, until it is known what they cost
    RankedQuery query;
    const std::size_t all = Steps(index).count;
    double scan = INFINITY;
    // The best of a few: whatever else the machine does only adds.
    for (std::size_t i = 0; i < (index.unique > 10'000'000 ? 2 : 4); ++i) {
        query.start(request, weights, costs, i, k);
        query.look_up(buckets);  // so that it scans as it would after look-ups that were in vain
        query.prepare_scan();
        const auto start = Clock::now();
        query.scan(0, all);
        scan = std::min(scan, since(start));
    }
    costs.scan = std::max(scan, 100.0);
    costs.code = costs.scan / static_cast<double>(index.unique);
    const Costs counting{INFINITY, 1, 0};
    double bucket = INFINITY;
    for (std::size_t i = 0; i < samples; ++i) {
        query.start(request, weights, counting, i, k);
        const auto start = Clock::now();
        query.look_up(buckets);
        const double spent = since(start) - static_cast<double>(query.spent().codes) * costs.code;
        if (query.spent().buckets > 0) bucket = std::min(bucket, spent / static_cast<double>(query.spent().buckets));
    }
    costs.bucket = std::min(std::max(bucket, 1.0), 500.0);
    return costs;
}

}  // namespace qo
