// When look-ups that go on and on should give way to a scan.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "levels.h"

namespace qo {

// How much look-ups may cost, going by what they will cost in all, as far as one can tell. With the usual budget of a
// fifth of the scan's cost: three fifths where half of it should do; soon no more where they would take more than one and
// a half times as much.
inline double allowance(double budget, double forecast) {
    return forecast <= 2.5 * budget ? 3 * budget : forecast > 8 * budget ? budget / 4 : budget;
}

// What look-ups in the order of 'weighted' will cost in all.
//
// They end when the smallest key that no chunk has come to exceeds the limit. Sets of bits with sums up to t number about
// exp(c sqrt(t)) (as partitions into distinct parts do), so the logarithm of the cost is taken to grow with sqrt(t).
class Growth {
  public:
    // INFINITY while nothing can be said.
    double forecast(double cost, std::uint64_t unseen, std::uint32_t limit) {
        const double root = std::sqrt(static_cast<double>(unseen));
        double all = INFINITY;
        if (limit != kNever && cost_ > 0 && root > root_) {
            const double left = std::sqrt(static_cast<double>(limit)) - root;
            all = cost * std::exp(std::min(std::log(cost / cost_) / (root - root_) * left, 50.0));
        }
        if (cost >= 2 * cost_) {
            cost_ = cost;
            root_ = root;
        }
        return all;
    }

  private:
    double cost_ = 0, root_ = 0;  // at an earlier time
};

}  // namespace qo
