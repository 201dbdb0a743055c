#pragma once

// File: io/buffer_pool.h
//
// Memory for bytes, in blocks with counted shares: `BlockPool` (blocks of one size, reused),
// `Arena` (small pieces copied one behind the other into such blocks), heap blocks for what is
// larger, and `BufferPool`, the region of receive buffers that a ring hands to the kernel. One
// thread each.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/base/macros.h"
#include "absl/strings/string_view.h"
#include "io/slice.h"

namespace io {

// A block of its own on the heap; freed with its last share. Not zeroed.
BufferRef NewHeapBlock(size_t bytes);
// The bytes, copied into a heap block of their own.
Slice CopyToHeap(absl::string_view bytes);

// Blocks of `block_bytes` each, allocated on demand, kept for reuse up to `idle_max` of them.
class BlockPool final : public BlockOwner {
 public:
  BlockPool(size_t block_bytes, size_t idle_max);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  BufferRef Take();
  void Recycle(Block* block) override;
  size_t block_bytes() const { return block_bytes_; }
  // Blocks that someone holds a share of.
  size_t in_use() const { return in_use_; }

 private:
  const size_t block_bytes_;
  const size_t idle_max_;
  size_t in_use_ = 0;
  std::vector<Block*> idle_;  // owned; last in, first out: the warm ones
};

// Copies small pieces into blocks of a pool, one behind the other, so that pieces copied in a row
// are neighbours and go out as one part of a send.
class Arena {
 public:
  // The pool outlives the arena and all slices.
  explicit Arena(BlockPool* pool) : pool_(pool) {}
  // Copies the bytes. Larger pieces than a block get a heap block of their own.
  Slice Copy(absl::string_view bytes) {
    if (bytes.empty()) return Slice();
    if (bytes.size() > pool_->block_bytes()) return CopyToHeap(bytes);
    memcpy(Reserve(bytes.size()), bytes.data(), bytes.size());
    return Commit(bytes.size());
  }
  // At least `bytes` writable bytes (no more than a block), to be filled before Commit.
  char* Reserve(size_t bytes) {
    ABSL_ASSERT(bytes <= pool_->block_bytes());
    if (!block_ || block_->size - used_ < bytes || block_->refs == 1) Renew();
    return block_->data + used_;
  }
  // The first `bytes` of the last Reserve, as a slice.
  Slice Commit(size_t bytes) {
    ABSL_ASSERT(block_ && bytes <= block_->size - used_);
    const absl::string_view committed(block_->data + used_, bytes);
    used_ += bytes;
    return Slice(block_, committed);
  }
  // The same where a slice of block() takes them in (Slice::TakeIn).
  void CommitTakenIn(size_t bytes) {
    ABSL_ASSERT(block_ && bytes <= block_->size - used_);
    used_ += bytes;
  }
  const Block* block() const { return block_.get(); }
  // Gives up the share of the current block: an idle owner holds no memory.
  void Release();

 private:
  void Renew();

  BlockPool* const pool_;
  BufferRef block_;
  size_t used_ = 0;
};

// The receive buffers of one group: `count` buffers of `buffer_bytes`, in one region of memory,
// which a ring lends to the kernel. A buffer comes back when the kernel is done with it and the
// last slice into it is gone.
class BufferPool final : public BlockOwner {
 public:
  // Page-aligned memory, left out of core dumps. If there is none, region() is null (errno says
  // why) and the pool can't be used.
  BufferPool(uint32_t count, size_t buffer_bytes);
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  Block* block(uint32_t index) { return &blocks_[index]; }
  uint32_t count() const { return static_cast<uint32_t>(blocks_.size()); }
  size_t buffer_bytes() const { return buffer_bytes_; }
  char* region() const { return region_; }
  size_t region_bytes() const { return count() * buffer_bytes_; }

  void Recycle(Block* block) override;
  // Buffers that came back; the ring takes from here those that it lends to the kernel.
  std::vector<uint32_t>& returned();

 private:
  const size_t buffer_bytes_;
  char* region_ = nullptr;
  std::vector<Block> blocks_;
  std::vector<uint32_t> returned_;
};

}  // namespace io
