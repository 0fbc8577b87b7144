// The values of one chunk, in ascending order of the key of the bits in which they differ from the query's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "index.h"

namespace qo {

constexpr std::uint32_t kNever = std::numeric_limits<std::uint32_t>::max();

class Levels {
  public:
    struct Bucket {
        std::uint32_t key, value;
    };

    // `keys`: of the chunk's bits [width], each > 0, with a sum below 2^24.
    void start(std::uint32_t value, const std::uint32_t* keys, int width) {
        value_ = value;
        width_ = width;
        int order[kMaxChunkBits];
        for (int i = 0; i < width; ++i) {
            int at = i;
            for (; at > 0 && keys[order[at - 1]] > keys[i]; --at) order[at] = order[at - 1];
            order[at] = i;
        }
        for (int i = 0; i < width; ++i) {
            keys_[i] = keys[order[i]];
            masks_[i] = 1u << order[i];
        }
        heap_.clear();
        taken_ = false;
    }

    // The next bucket, or one with the key kNever after the last.
    Bucket next() {
        if (!taken_) {
            taken_ = true;
            if (width_ > 0) push(entry(keys_[0], 0, masks_[0]));
            return {0, value_};
        }
        if (heap_.empty()) return {kNever, 0};
        // Every set of bits but the empty one comes from exactly one other, of no larger key: with its largest bit, in
        // the order of keys, taken away where that leaves the one before as the largest, or else moved one down.
        const std::uint64_t top = heap_[0];
        const auto key = static_cast<std::uint32_t>(top >> 20);
        const auto mask = static_cast<std::uint32_t>(top & 0xffff);
        const auto last = static_cast<int>(top >> 16 & 15);
        if (last + 1 < width_) {
            const std::uint32_t with = key + keys_[last + 1], bits = mask | masks_[last + 1];
            replace(entry(with - keys_[last], last + 1, bits ^ masks_[last]));
            push(entry(with, last + 1, bits));
        } else {
            const std::uint64_t moved = heap_.back();
            heap_.pop_back();
            if (!heap_.empty()) replace(moved);
        }
        return {key, value_ ^ mask};
    }

    std::size_t capacity() const { return heap_.capacity(); }

  private:
    static std::uint64_t entry(std::uint32_t key, int last, std::uint32_t mask) {
        return static_cast<std::uint64_t>(key) << 20 | static_cast<std::uint64_t>(last) << 16 | mask;
    }

    void push(std::uint64_t value) {
        std::size_t at = heap_.size();
        heap_.push_back(value);
        while (at > 0 && heap_[(at - 1) / 2] > value) {
            heap_[at] = heap_[(at - 1) / 2];
            at = (at - 1) / 2;
        }
        heap_[at] = value;
    }

    // In place of the smallest.
    void replace(std::uint64_t value) {
        const std::size_t size = heap_.size();
        std::size_t at = 0;
        for (std::size_t child; (child = 2 * at + 1) < size; at = child) {
            child += child + 1 < size && heap_[child + 1] < heap_[child];
            if (heap_[child] >= value) break;
            heap_[at] = heap_[child];
        }
        heap_[at] = value;
    }

    std::uint32_t value_ = 0;
    int width_ = 0;
    bool taken_ = false;  // whether the query's own value, which differs in nothing, was given out
    std::uint32_t keys_[kMaxChunkBits] = {}, masks_[kMaxChunkBits] = {};
    std::vector<std::uint64_t> heap_;  // key << 20 | place of the largest bit << 16 | mask
};

}  // namespace qo
