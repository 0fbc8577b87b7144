#include "rank.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "parallel.h"
#include "ranked_query.h"

namespace qo {
namespace {

// As in batch.cpp.
constexpr std::size_t kTogether = 64;
constexpr std::size_t kWorthThreads = 256;

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
    const double budget = costs.budget();
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
    constexpr std::size_t samples = 15;
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
    Costs costs{INFINITY, 1, 0, kShare};  // look-ups are counted, one each, until it is known what they cost
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
    const Costs counting{INFINITY, 1, 0, kShare};
    // What a few look-ups cost is left out: nearly every code of the first is a candidate. Of the others a low one: each
    // query looks elsewhere, so none is typical, and some are interrupted.
    std::vector<double> each;
    for (std::size_t i = 0; i < samples; ++i) {
        double spent = 0, seen = 0;
        for (const double few : {buckets / 4, buckets / 4, buckets}) {  // the first time, from memory into the cache
            query.start(request, weights, counting, i, k);
            const auto start = Clock::now();
            query.look_up(few);
            const double now = since(start) - static_cast<double>(query.spent().codes) * costs.code;
            const auto looked_up = static_cast<double>(query.spent().buckets);
            if (few == buckets && looked_up > seen) each.push_back((now - spent) / (looked_up - seen));
            spent = now;
            seen = looked_up;
        }
    }
    std::sort(each.begin(), each.end());
    costs.bucket = each.empty() ? 1.0 : std::min(std::max(each[each.size() / 4], 1.0), 500.0);
    // Where most queries end in a scan, little is spent before it. Rows as queries, as most pictures are near others; the
    // weights leave more searches to look-ups than distances do.
    std::size_t scanned = 0;
    for (std::size_t i = 0; i < samples; ++i) queries[i] = code_of_posting(index, index.n / samples * i);
    for (std::size_t i = 0; i < samples; ++i) {
        query.run(request, weights, costs, i, k);
        scanned += query.spent().scanned;
    }
    if (2 * scanned > samples) costs.share = kLeastShare;
    return costs;
}

}  // namespace qo
