#include "io/buffer_pool.h"

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#include <cstring>
#include <new>

namespace io {
namespace {

// The bytes lie behind the block, aligned as for any type.
constexpr size_t kDataOffset =
    (sizeof(Block) + alignof(std::max_align_t) - 1) & ~(alignof(std::max_align_t) - 1);

Block* NewBlock(size_t bytes, BlockOwner* owner) {
  char* memory = static_cast<char*>(::operator new(kDataOffset + bytes));
  Block* block = new (memory) Block;
  block->data = memory + kDataOffset;
  block->size = bytes;
  block->owner = owner;
  return block;
}

void DeleteBlock(Block* block) {
  ASAN_UNPOISON_MEMORY_REGION(block->data, block->size);
  block->~Block();
  ::operator delete(block);
}

class Heap final : public BlockOwner {
 public:
  void Recycle(Block* block) override { DeleteBlock(block); }
};

}  // namespace

BufferRef NewHeapBlock(size_t bytes) {
  static Heap heap;  // has no state, so all threads may use it
  return BufferRef(NewBlock(bytes, &heap));
}

Slice CopyToHeap(absl::string_view bytes) {
  if (bytes.empty()) return Slice();
  BufferRef block = NewHeapBlock(bytes.size());
  memcpy(block->data, bytes.data(), bytes.size());
  const absl::string_view copy(block->data, bytes.size());
  return Slice(std::move(block), copy);
}

BlockPool::BlockPool(size_t block_bytes, size_t idle_max)
    : block_bytes_(block_bytes), idle_max_(idle_max) {}

BlockPool::~BlockPool() {
  ABSL_ASSERT(in_use_ == 0);
  for (Block* block : idle_) DeleteBlock(block);
}

BufferRef BlockPool::Take() {
  ++in_use_;
  if (idle_.empty()) return BufferRef(NewBlock(block_bytes_, this));
  Block* block = idle_.back();
  idle_.pop_back();
  ASAN_UNPOISON_MEMORY_REGION(block->data, block->size);
  return BufferRef(block);
}

void BlockPool::Recycle(Block* block) {
  --in_use_;
  if (idle_.size() >= idle_max_) return DeleteBlock(block);
  ASAN_POISON_MEMORY_REGION(block->data, block->size);
  idle_.push_back(block);
}

// A whole block of room: the one at hand if all slices into it are gone, else another one.
void Arena::Renew() {
  if (!block_ || block_->refs > 1) block_ = pool_->Take();
  used_ = 0;
}

void Arena::Release() {
  block_.Drop();
  used_ = 0;
}

BufferPool::BufferPool(uint32_t count, size_t buffer_bytes)
    : buffer_bytes_(buffer_bytes), blocks_(count) {
  void* region =
      mmap(nullptr, region_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (region == MAP_FAILED) return;
  // Payloads of clients have no place in a core dump. A kernel that can't leave them out is no
  // reason to fail.
  madvise(region, region_bytes(), MADV_DONTDUMP);
  region_ = static_cast<char*>(region);
  for (uint32_t i = 0; i < count; ++i) {
    blocks_[i].data = region_ + i * buffer_bytes_;
    blocks_[i].size = buffer_bytes_;
    blocks_[i].index = i;
    blocks_[i].scarce = true;
    blocks_[i].owner = this;
  }
  returned_.reserve(count);
}

BufferPool::~BufferPool() {
  if (region_ == nullptr) return;
  ASAN_UNPOISON_MEMORY_REGION(region_, region_bytes());
  munmap(region_, region_bytes());
}

// Until the ring fetches it, nobody may look into the buffer.
void BufferPool::Recycle(Block* block) {
  ASAN_POISON_MEMORY_REGION(block->data, block->size);
  returned_.push_back(block->index);
}

std::vector<uint32_t>& BufferPool::returned() {
#if defined(__SANITIZE_ADDRESS__) || defined(ABSL_HAVE_ADDRESS_SANITIZER)
  for (uint32_t index : returned_) {
    ASAN_UNPOISON_MEMORY_REGION(blocks_[index].data, blocks_[index].size);
  }
#endif
  return returned_;
}

}  // namespace io
