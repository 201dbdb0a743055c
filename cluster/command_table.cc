#include "cluster/command_table.h"

#include <array>

#include "absl/base/optimization.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "cluster/load_bytes.h"

namespace cluster {

namespace {

#include "cluster/command_table_data.inc"

constexpr size_t kRowCount = sizeof(kCommands) / sizeof(kCommands[0]);

static_assert(sizeof(CommandSpec) == 64, "a row is a cache line");

// --- the table is what the look-up and its users take it for

constexpr bool IsSortedAndUnique() {
  for (size_t i = 1; i < kRowCount; ++i) {
    const int by_container = kCommands[i - 1].container.compare(kCommands[i].container);
    if (by_container > 0) return false;
    if (by_container == 0 && kCommands[i - 1].name.compare(kCommands[i].name) >= 0) return false;
  }
  return true;
}
static_assert(IsSortedAndUnique(), "rows must be sorted by (container, name), each once");

constexpr bool IdsAreIndexes() {
  for (size_t i = 0; i < kRowCount; ++i) {
    if (kCommands[i].id != i) return false;
  }
  return true;
}
static_assert(IdsAreIndexes(), "a row's id must be its index");

// --- look-up by name: open addressing over upper-cased words, made at compile time

constexpr size_t kNameBytesMax = 24;

// A name as words of eight bytes, the first byte lowest, and what else tells rows apart: the length
// (the words end in zeros, and a client may send zeros) and the container.
struct NameKey {
  uint64_t words[3] = {0, 0, 0};
  uint64_t tag = 0;
};

constexpr uint64_t MakeTag(size_t name_bytes, uint32_t container) {
  return name_bytes | uint64_t{container} << 8;
}
constexpr uint32_t kNoContainer = 0;
constexpr uint32_t ContainerNumber(const CommandSpec& container) { return container.id + 1u; }

constexpr uint64_t HashKey(const NameKey& key) {
  uint64_t hash = key.words[0] * 0x9e3779b97f4a7c15;
  hash ^= (key.words[1] + key.tag) * 0xc2b2ae3d27d4eb4f;
  hash ^= key.words[2] * 0xff51afd7ed558ccd;
  return hash ^ (hash >> 32);
}

constexpr size_t kBucketCount = 1024;
static_assert(kRowCount * 2 < kBucketCount, "the look-up table is too full");
constexpr uint16_t kNoRow = 0xffff;

struct Index {
  std::array<uint16_t, kBucketCount> rows{};
  std::array<NameKey, kRowCount> keys{};
};

constexpr NameKey MakeKey(absl::string_view name, uint32_t container) {
  NameKey key;
  for (size_t i = 0; i < name.size(); ++i) {
    key.words[i / 8] |= uint64_t{static_cast<uint8_t>(name[i])} << (i % 8 * 8);
  }
  key.tag = MakeTag(name.size(), container);
  return key;
}

constexpr uint32_t FindContainer(absl::string_view name) {
  for (const CommandSpec& row : kCommands) {
    if (row.container.empty() && row.name == name) return ContainerNumber(row);
  }
  return kNoContainer;
}

constexpr Index MakeIndex() {
  Index index;
  for (uint16_t& row : index.rows) row = kNoRow;
  absl::string_view container;
  uint32_t number = kNoContainer;
  for (size_t i = 0; i < kRowCount; ++i) {
    if (kCommands[i].container != container) {
      container = kCommands[i].container;
      number = FindContainer(container);
    }
    index.keys[i] = MakeKey(kCommands[i].name, number);
    size_t bucket = HashKey(index.keys[i]) % kBucketCount;
    while (index.rows[bucket] != kNoRow) bucket = (bucket + 1) % kBucketCount;
    index.rows[bucket] = static_cast<uint16_t>(i);
  }
  return index;
}

constexpr Index kIndex = MakeIndex();

// Of the commands whose names fit a word: most of them, and nearly all look-ups are for one.
constexpr size_t kWordBytes = sizeof(uint64_t);
constexpr uint64_t HashWord(uint64_t word) { return (word * 0x9e3779b97f4a7c15) >> 54; }
static_assert((~uint64_t{0} >> 54) + 1 == kBucketCount);

constexpr bool IsWordCommand(const CommandSpec& row) {
  return row.container.empty() && row.name.size() <= kWordBytes;
}

constexpr std::array<uint16_t, kBucketCount> MakeWordIndex() {
  std::array<uint16_t, kBucketCount> rows{};
  for (uint16_t& row : rows) row = kNoRow;
  for (size_t i = 0; i < kRowCount; ++i) {
    if (!IsWordCommand(kCommands[i])) continue;
    size_t bucket = HashWord(kIndex.keys[i].words[0]);
    while (rows[bucket] != kNoRow) bucket = (bucket + 1) % kBucketCount;
    rows[bucket] = static_cast<uint16_t>(i);
  }
  return rows;
}

constexpr std::array<uint16_t, kBucketCount> kWordIndex = MakeWordIndex();

constexpr bool NamesFit() {
  for (const CommandSpec& row : kCommands) {
    if (row.name.empty() || row.name.size() > kNameBytesMax) return false;
    if (!row.container.empty() && FindContainer(row.container) == kNoContainer) return false;
  }
  return true;
}
static_assert(NamesFit(), "a name is too long, or its container is missing");

// Eight letters at once: bytes from 'a' to 'z' lose bit 5, all others stay.
inline uint64_t ToUpper(uint64_t word) {
  constexpr uint64_t kOnes = 0x0101010101010101;
  const uint64_t ascii = ~word & (kOnes * 0x80);
  const uint64_t low = word & (kOnes * 0x7f);
  const uint64_t from_a = low + kOnes * (0x80 - 'a');
  const uint64_t past_z = low + kOnes * (0x80 - 'z' - 1);
  return word ^ ((from_a & ~past_z & ascii) >> 2);
}

// The first 0 … 8 bytes of a name's rest.
inline uint64_t LoadPart(const char* p, size_t size) {
  return size >= 8 ? internal::Load64(p) : internal::LoadUpTo7(p, size);
}

const CommandSpec* FindRow(absl::string_view name, uint32_t container) {
  const size_t size = name.size();
  if (size == 0 || size > kNameBytesMax) return nullptr;
  NameKey key;
  key.words[0] = ToUpper(LoadPart(name.data(), size));
  if (size > 8) {
    key.words[1] = ToUpper(LoadPart(name.data() + 8, size - 8));
    if (size > 16) key.words[2] = ToUpper(LoadPart(name.data() + 16, size - 16));
  }
  key.tag = MakeTag(size, container);
  for (size_t bucket = HashKey(key) % kBucketCount;; bucket = (bucket + 1) % kBucketCount) {
    const uint16_t row = kIndex.rows[bucket];
    if (row == kNoRow) return nullptr;
    const NameKey& found = kIndex.keys[row];
    const uint64_t difference = (found.words[0] ^ key.words[0]) | (found.words[1] ^ key.words[1]) |
                                (found.words[2] ^ key.words[2]) | (found.tag ^ key.tag);
    if (ABSL_PREDICT_TRUE(difference == 0)) return &kCommands[row];
  }
}

}  // namespace

absl::Span<const CommandSpec> AllCommands() { return kCommands; }

std::string FullName(const CommandSpec& command) {
  if (command.container.empty()) return absl::AsciiStrToLower(command.name);
  return absl::AsciiStrToLower(absl::StrCat(command.container, "|", command.name));
}

const CommandSpec* FindCommand(absl::string_view name) {
  const size_t size = name.size();
  if (ABSL_PREDICT_FALSE(size - 1 >= kWordBytes)) return FindRow(name, kNoContainer);
  const uint64_t word = ToUpper(LoadPart(name.data(), size));
  for (size_t bucket = HashWord(word);; bucket = (bucket + 1) % kBucketCount) {
    const uint16_t row = kWordIndex[bucket];
    if (row == kNoRow) return nullptr;
    const NameKey& found = kIndex.keys[row];
    if (ABSL_PREDICT_TRUE(found.words[0] == word && found.tag == MakeTag(size, kNoContainer))) {
      return &kCommands[row];
    }
  }
}

const CommandSpec* FindSubcommand(const CommandSpec& container, absl::string_view name) {
  return FindRow(name, ContainerNumber(container));
}

bool ArityAccepts(const CommandSpec& command, int64_t arg_count) {
  // A key without a value: the servers say so with the same text.
  if (command.split == Split::kKeyValuePairs && arg_count % 2 == 0) return false;
  return command.arity >= 0 ? arg_count == command.arity : arg_count >= -command.arity;
}

}  // namespace cluster
