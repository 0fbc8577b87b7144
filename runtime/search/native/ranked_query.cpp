#include "ranked_query.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "forecast.h"

namespace qo {
namespace {

constexpr std::size_t kFirstPiece = 64;   // codes of the first call of weigh, of which most get into the candidates
constexpr std::size_t kPiece = 1024;      // of one when the k-th key is known well
constexpr std::size_t kFetched = 4;       // buckets of each chunk whose codes are on their way
constexpr std::size_t kPrefetched = 256;  // codes of one of them
constexpr std::size_t kSpareCandidates = 1 << 16;
constexpr std::size_t kKeptEntries = 1 << 20;
constexpr std::size_t kBlockBytes = 1 << 18;

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

}  // namespace

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
    const Levels::Bucket& bucket = side.ring[(side.front + ahead) % kBucketsKnown];
    if (bucket.key == kNever) return;
    const Chunk& chunk = index_->chunks[at];
    const std::uint32_t first = chunk.starts[bucket.value];
    const std::size_t last = std::min<std::size_t>(chunk.starts[bucket.value + 1], first + kPrefetched);
    if (first < last) chunk.rest.prefetch(first, last);
}

void RankedQuery::advance(std::size_t at) {
    Side& side = sides_[at];
    const Levels::Bucket bucket = side.levels.next();
    side.ring[side.front++ % kBucketsKnown] = bucket;
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
    Growth growth;
    double allowed = budget;
    while (true) {
        std::uint64_t unseen = 0;
        std::size_t chunk = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint32_t next = sides_[i].next();
            if (next == kNever) return true;  // it has come to every code
            unseen += next;
            // One distance after the other, or in turns: as weights grow, the chunks' buckets multiply about equally fast.
            const bool sooner = keys_.rank == Rank::tiebreak ? next >> 16 < sides_[chunk].next() >> 16
                                                             : sides_[i].taken < sides_[chunk].taken;
            if (sooner) chunk = i;
        }
        // At the limit itself a code not seen may still come first by its row.
        if (unseen > limit_.get()) return true;
        if (spent_.buckets >= weigh_at) {
            weigh();
            weigh_at = spent_.buckets + spent_.buckets / 4;
            const std::uint32_t limit = limit_.get();
            const double all =
                keys_.rank == Rank::tiebreak ? forecast_tiebreak(limit) : growth.forecast(cost_, unseen, limit);
            if (all < INFINITY) allowed = allowance(budget, all);
        }
        const std::uint32_t level = sides_[chunk].next();
        do {
            const Levels::Bucket bucket = sides_[chunk].ring[sides_[chunk].front % kBucketsKnown];
            const std::uint32_t* starts = index_->chunks[chunk].starts.data() + bucket.value;
            const std::uint32_t codes = starts[1] - starts[0];
            cost_ += costs_->bucket + static_cast<double>(codes) * costs_->code;
            if (cost_ > allowed) return false;
            ++spent_.buckets;
            spent_.codes += codes;
            if (codes > 0 && bucket.key <= limit_.get()) visit(chunk, bucket);
            advance(chunk);
        } while (sides_[chunk].next() == level);
        ++spent_.shells;
    }
}

// What look-ups in the order of 'tiebreak' will cost in all: each distance of each chunk raises by one the distance that
// codes not seen have at least.
double RankedQuery::forecast_tiebreak(std::uint32_t limit) const {
    if (limit == kNever) return INFINITY;
    const auto count = static_cast<int>(index_->chunks.size());
    double buckets = 0;
    for (int step = 0, last = keys_.distance(limit); step <= last; ++step) {
        const int width = index_->chunks[static_cast<std::size_t>(step % count)].width, shell = step / count;
        double of_shell = shell <= width;
        for (int i = 0; i < shell; ++i) of_shell *= static_cast<double>(width - i) / (i + 1);
        buckets += step == last ? of_shell / 2 : of_shell;  // weights end it somewhere in the last one
    }
    const double codes = static_cast<double>(index_->unique) / static_cast<double>(1u << index_->chunks[0].width);
    return cost_ + (buckets - static_cast<double>(spent_.buckets)) * (costs_->bucket + codes * costs_->code);
}

void RankedQuery::visit(std::size_t at, Levels::Bucket bucket) {
    const Chunk& chunk = index_->chunks[at];
    std::size_t begin = chunk.starts[bucket.value];
    const std::size_t end = chunk.starts[bucket.value + 1];
    if (chunk.rest.kind() == Kind::none) {
        offer(chunk.join(bucket.value, 0), static_cast<std::uint32_t>(begin), bucket.key);
        return;
    }
    const Weigh look = kernels_->weigh[static_cast<int>(chunk.rest.kind())];
    const Column column = chunk.rest.column();
    std::uint32_t positions[kPiece + kSlack], keys[kPiece + kSlack], numbers[kPiece];
    std::uint64_t codes[kPiece];
    while (begin < end && bucket.key <= limit_.get()) {
        // The limit comes down with every piece, first in large steps.
        const std::size_t piece = std::min({end - begin, std::max(kFirstPiece, looked_at_), kPiece});
        const std::size_t n =
            look(column, begin, begin + piece, sides_[at].sums, limit_.get() - bucket.key, positions, keys);
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
    first_.start(wanted);
    for (std::size_t at = begin; at < end; ++at) {
        const std::uint32_t unique = candidates_[at].unique;
        if (index_->structure == Structure::scan) {
            first_.add_row(unique);
        } else {
            first_.add_code(*index_, unique, allowed_);
        }
    }
    const std::vector<std::uint32_t>& group = first_.sorted();
    rows_.insert(rows_.end(), group.begin(), group.end());
}

void RankedQuery::shrink() {
    std::size_t kept = candidates_.capacity() + rows_.capacity() + row_keys_.capacity() + first_.capacity() +
                       limit_.capacity();
    for (const Side& side : sides_) kept += side.levels.capacity();
    if (kept > kKeptEntries) *this = RankedQuery();
}

RankedQuery::Found RankedQuery::run(const Request& request, const Weights& weights, const Costs& costs,
                                    std::size_t query, std::uint64_t k) {
    start(request, weights, costs, query, k);
    if (!look_up(costs.budget())) {
        prepare_scan();
        scan(0, Steps(request.index).count);
    }
    return finish();
}

Steps::Steps(const Index& index) {
    const bool words = index.words.size() > 0;
    count = words ? index.unique : index.chunks.empty() ? 0 : std::size_t{1} << index.chunks[0].width;
    const std::size_t bytes = words ? index.words.bytes() : count > 0 ? index.chunks[0].rest.bytes() : 0;
    each = std::max<std::size_t>(count * kBlockBytes / std::max<std::size_t>(bytes, 1), 1);
}

}  // namespace qo
