#include "io/slice.h"

#include <random>
#include <string>

#include "gtest/gtest.h"
#include "io/buffer_pool.h"

namespace io {
namespace {

// Counts what comes back.
class CountingOwner final : public BlockOwner {
 public:
  explicit CountingOwner(absl::string_view text) : text_(text) {
    block.data = text_.data();
    block.size = text_.size();
    block.owner = this;
  }
  void Recycle(Block*) override { ++recycled; }
  Slice Part(size_t offset, size_t length) {
    return Slice(BufferRef(&block), absl::string_view(block.data + offset, length));
  }

  Block block;
  int recycled = 0;

 private:
  std::string text_;
};

std::string Text(const Rope& rope) {
  std::string text;
  for (const Slice& slice : rope.slices()) text.append(slice.data(), slice.size());
  return text;
}

TEST(BufferRefTest, TheOwnerGetsTheBlockWithItsLastShare) {
  CountingOwner owner("abc");
  {
    BufferRef a(&owner.block);
    BufferRef b = a;
    BufferRef c = std::move(a);
    EXPECT_FALSE(a);  // NOLINT(bugprone-use-after-move): a moved-from share is none
    EXPECT_EQ(owner.block.refs, 2u);
    b.Drop();
    b.Drop();
    EXPECT_EQ(owner.recycled, 0);
    c = BufferRef();
    EXPECT_EQ(owner.recycled, 1);
  }
  EXPECT_EQ(owner.recycled, 1);
}

TEST(BufferRefTest, AssigningAShareToItselfKeepsIt) {
  CountingOwner owner("abc");
  BufferRef a(&owner.block);
  BufferRef& same = a;
  a = same;
  EXPECT_EQ(owner.block.refs, 1u);
  EXPECT_EQ(owner.recycled, 0);
}

TEST(SliceTest, PartsHoldTheBlock) {
  CountingOwner owner("hello world");
  Slice world;
  {
    const Slice all = owner.Part(0, 11);
    world = all.Sub(6, 5);
  }
  EXPECT_EQ(owner.recycled, 0);
  EXPECT_EQ(world.bytes(), "world");
  world.RemovePrefix(2);
  EXPECT_EQ(world.bytes(), "rld");
  world = Slice();
  EXPECT_EQ(owner.recycled, 1);
}

TEST(SliceTest, OnlyNeighboursInOneBlockFollowEachOther) {
  CountingOwner owner("hello world");
  const Slice first = owner.Part(0, 5);
  EXPECT_TRUE(first.IsFollowedBy(owner.Part(5, 3)));
  EXPECT_FALSE(first.IsFollowedBy(owner.Part(6, 3)));
  EXPECT_FALSE(owner.Part(5, 3).IsFollowedBy(first));
  CountingOwner other("x");
  EXPECT_FALSE(first.IsFollowedBy(other.Part(0, 1)));
  // Neighbours in static text are nobody's block: joining them would be right, but isn't done.
  const absl::string_view text = "+OK\r\n+OK\r\n";
  EXPECT_FALSE(Slice::Static(text.substr(0, 5)).IsFollowedBy(Slice::Static(text.substr(5))));
}

TEST(RopeTest, NeighboursAreJoinedAndEmptySlicesLeftOut) {
  CountingOwner owner("hello world");
  Rope rope;
  rope.Append(owner.Part(0, 5));
  rope.Append(Slice());
  rope.Append(owner.Part(5, 1));
  rope.Append(owner.Part(6, 5));
  EXPECT_EQ(rope.slices().size(), 1u);
  EXPECT_EQ(owner.block.refs, 1u);
  rope.Append(owner.Part(0, 2));
  EXPECT_EQ(rope.slices().size(), 2u);
  EXPECT_EQ(Text(rope), "hello worldhe");
  EXPECT_EQ(rope.size(), 13u);
  rope.Clear();
  EXPECT_TRUE(rope.empty());
  EXPECT_EQ(owner.recycled, 1);
}

TEST(RopeTest, EveryRangeIsTheSameBytesOfTheText) {
  CountingOwner owner("the quick brown fox");
  Rope rope;
  rope.Append(owner.Part(0, 4));
  rope.Append(owner.Part(10, 3));
  rope.Append(Slice::Static("jumps"));
  rope.Append(owner.Part(4, 1));
  const std::string text = Text(rope);
  const RopeRanges ranges(rope);
  for (size_t offset = 0; offset <= text.size(); ++offset) {
    for (size_t length = 0; offset + length <= text.size(); ++length) {
      Rope part;
      ranges.AppendTo(offset, length, &part);
      ASSERT_EQ(Text(part), text.substr(offset, length)) << offset << "+" << length;
      ASSERT_EQ(part.size(), length);
    }
  }
}

}  // namespace
}  // namespace io
