#include "io/buffer_pool.h"

#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace io {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(HeapBlockTest, HoldsACopyOfTheBytes) {
  std::string text(100'000, 'x');
  text[99'999] = 'y';
  const Slice copy = CopyToHeap(text);
  EXPECT_NE(copy.data(), text.data());
  EXPECT_EQ(copy.bytes(), text);
  EXPECT_EQ(copy.buffer()->size, text.size());
  EXPECT_FALSE(copy.buffer()->scarce);
  EXPECT_TRUE(CopyToHeap("").empty());
}

TEST(HeapBlockTest, IsAlignedForAnyType) {
  for (size_t bytes : {1, 7, 100, 65536}) {
    const BufferRef block = NewHeapBlock(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block->data) % alignof(std::max_align_t), 0u);
    memset(block->data, 1, block->size);
  }
}

TEST(BlockPoolTest, TheWarmestBlockIsUsedAgain) {
  BlockPool pool(100, 8);
  BufferRef a = pool.Take(), b = pool.Take();
  EXPECT_EQ(pool.in_use(), 2u);
  const char* const a_data = a->data;
  const char* const b_data = b->data;
  EXPECT_NE(a_data, b_data);
  a.Drop();
  b.Drop();
  EXPECT_EQ(pool.in_use(), 0u);
  a = pool.Take();
  EXPECT_EQ(a->data, b_data);
  b = pool.Take();
  EXPECT_EQ(b->data, a_data);
  EXPECT_EQ(a->size, 100u);
}

TEST(BlockPoolTest, KeepsNoMoreThanItsIdleMaximum) {
  BlockPool pool(64, 2);
  std::vector<BufferRef> blocks;
  for (int i = 0; i < 5; ++i) blocks.push_back(pool.Take());
  std::set<const char*> last_two;  // the first two to come back are kept
  last_two.insert(blocks[0]->data);
  last_two.insert(blocks[1]->data);
  for (BufferRef& block : blocks) block.Drop();
  EXPECT_EQ(pool.in_use(), 0u);
  BufferRef a = pool.Take(), b = pool.Take();
  EXPECT_EQ((std::set<const char*>{a->data, b->data}), last_two);
}

TEST(BlockPoolTest, ABlockComesBackOnlyWithItsLastSlice) {
  BlockPool pool(64, 2);
  Slice part;
  {
    const BufferRef block = pool.Take();
    part = Slice(block, absl::string_view(block->data, 10)).Sub(2, 3);
  }
  EXPECT_EQ(pool.in_use(), 1u);
  part = Slice();
  EXPECT_EQ(pool.in_use(), 0u);
}

TEST(ArenaTest, PiecesCopiedInARowAreNeighbours) {
  BlockPool pool(64, 2);
  Arena arena(&pool);
  const Slice a = arena.Copy("hello "), b = arena.Copy("world");
  EXPECT_TRUE(a.IsFollowedBy(b));
  EXPECT_EQ(a.bytes(), "hello ");
  EXPECT_EQ(b.bytes(), "world");
  EXPECT_TRUE(arena.Copy("").empty());
  EXPECT_EQ(pool.in_use(), 1u);
}

TEST(ArenaTest, WhatDoesNotFitGoesToTheNextBlockAndTheLargerToTheHeap) {
  BlockPool pool(64, 2);
  Arena arena(&pool);
  const Slice a = arena.Copy(std::string(40, 'a'));
  const Slice b = arena.Copy(std::string(25, 'b'));
  EXPECT_NE(a.buffer().get(), b.buffer().get());
  EXPECT_EQ(pool.in_use(), 2u);
  const Slice large = arena.Copy(std::string(65, 'c'));
  EXPECT_EQ(pool.in_use(), 2u);
  EXPECT_EQ(large.bytes(), std::string(65, 'c'));
  // Of the whole size of a block, to the last byte.
  const Slice whole = arena.Copy(std::string(64, 'd'));
  EXPECT_EQ(whole.bytes(), std::string(64, 'd'));
  EXPECT_EQ(a.bytes(), std::string(40, 'a'));
  EXPECT_EQ(b.bytes(), std::string(25, 'b'));
}

TEST(ArenaTest, ABlockWhoseSlicesAreGoneIsFilledFromItsBeginning) {
  BlockPool pool(64, 2);
  Arena arena(&pool);
  const char* begin = nullptr;
  for (int i = 0; i < 100; ++i) {
    const Slice piece = arena.Copy(std::string(30, 'x'));
    if (i == 0) begin = piece.data();
    EXPECT_EQ(piece.data(), begin);
  }
  EXPECT_EQ(pool.in_use(), 1u);
}

TEST(ArenaTest, OnlyWhatIsCommittedIsTaken) {
  BlockPool pool(64, 2);
  Arena arena(&pool);
  const Slice before = arena.Copy("ab");
  memcpy(arena.Reserve(50), "cdef", 4);
  const Slice committed = arena.Commit(3);
  EXPECT_EQ(committed.bytes(), "cde");
  EXPECT_TRUE(before.IsFollowedBy(committed));
  EXPECT_TRUE(committed.IsFollowedBy(arena.Copy("xyz")));
  EXPECT_EQ(committed.bytes(), "cde");
}

TEST(ArenaTest, AnArenaThatReleasedHoldsNoBlock) {
  BlockPool pool(64, 2);
  Arena arena(&pool);
  Slice piece = arena.Copy("ab");
  arena.Release();
  EXPECT_EQ(pool.in_use(), 1u);
  EXPECT_EQ(piece.bytes(), "ab");
  const Slice next = arena.Copy("cd");  // in another block: nobody fills one that was given up
  EXPECT_NE(next.buffer().get(), piece.buffer().get());
  piece = Slice();
  EXPECT_EQ(pool.in_use(), 1u);
}

// Pieces are freed in the order of a queue with some staying longer, as requests are.
TEST(ArenaTest, RandomLifetimesKeepEveryPieceIntactAndLeakNothing) {
  BlockPool pool(256, 4);
  Arena arena(&pool);
  std::mt19937 random(3);
  std::vector<std::pair<Slice, std::string>> held;
  for (int i = 0; i < 20'000; ++i) {
    std::string text(random() % 300, static_cast<char>('a' + random() % 26));
    Slice piece = arena.Copy(text);
    held.emplace_back(std::move(piece), std::move(text));
    while (held.size() > 20) {
      const size_t victim = random() % (random() % 4 == 0 ? held.size() : 1);
      ASSERT_EQ(held[victim].first.bytes(), held[victim].second);
      held.erase(held.begin() + static_cast<ptrdiff_t>(victim));
    }
    ASSERT_LE(pool.in_use(), 22u);
  }
  held.clear();
  arena.Release();
  EXPECT_EQ(pool.in_use(), 0u);
}

TEST(BufferPoolTest, BuffersAreScarcePartsOfOnePageAlignedRegion) {
  BufferPool pool(4, 4096);
  ASSERT_NE(pool.region(), nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(pool.region()) % static_cast<uintptr_t>(getpagesize()), 0u);
  EXPECT_EQ(pool.count(), 4u);
  EXPECT_EQ(pool.region_bytes(), 4u * 4096);
  for (uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(pool.block(i)->data, pool.region() + i * 4096);
    EXPECT_EQ(pool.block(i)->size, 4096u);
    EXPECT_EQ(pool.block(i)->index, i);
    EXPECT_TRUE(pool.block(i)->scarce);
  }
  memset(pool.region(), 1, pool.region_bytes());
}

TEST(BufferPoolTest, ABufferIsReturnedWithItsLastShare) {
  BufferPool pool(3, 4096);
  BufferRef kernel(pool.block(2));  // the share of whoever may still write into it
  memcpy(pool.block(2)->data, "abc", 3);
  Slice slice(kernel, absl::string_view(pool.block(2)->data, 3));
  kernel.Drop();
  EXPECT_THAT(pool.returned(), IsEmpty());
  EXPECT_EQ(slice.bytes(), "abc");
  slice = Slice();
  BufferRef(pool.block(0)).Drop();
  EXPECT_THAT(pool.returned(), ElementsAre(2, 0));
  pool.returned().clear();
  // Once fetched, the memory may be written again.
  memset(pool.block(2)->data, 0, pool.block(2)->size);
  BufferRef(pool.block(2)).Drop();
  EXPECT_THAT(pool.returned(), ElementsAre(2));
}

TEST(BufferPoolTest, ARegionThatIsNotToBeHadIsNull) {
  const BufferPool pool(1, size_t{1} << 62);
  EXPECT_EQ(pool.region(), nullptr);
}

#if defined(__SANITIZE_ADDRESS__)
TEST(BufferPoolDeathTest, ReadingARecycledBufferOrBlockIsFound) {
  const auto first_byte = [](const char* data) {
    volatile char byte = *data;
    return byte;
  };
  BlockPool blocks(64, 2);
  const char* data = nullptr;
  {
    const BufferRef block = blocks.Take();
    block->data[0] = 1;
    data = block->data;
  }
  EXPECT_DEATH(first_byte(data), "use-after-poison");
  BufferPool pool(1, 4096);
  BufferRef(pool.block(0)).Drop();
  EXPECT_DEATH(first_byte(pool.region()), "use-after-poison");
}
#endif

}  // namespace
}  // namespace io
