// Disks that are full, broken, slow or clumsy.
#include "../recorder.h"

#include "recording_files.h"

using namespace couplet;
using namespace couplet::test;
using std::string;
using Kind = RecorderEventKind;

namespace {

const string kHeader = "{\"magic\":\"MeshCentralRelaySession\"}";

struct Outcome {
  string file, sidecar;
  bool complete;
  size_t failures;
};

// Records the messages on the disk as it is set, flushing after some of them.
Outcome record(const std::vector<string>& messages, Random& random, size_t flushEvery) {
  TemporaryFolder folder;
  Recorded recorded;
  recorded.recorder.configure({.flushMs = 3600000, .fsyncMs = 3600000});
  Recording* recording = recorded.open(folder, "a");
  recording->writeHeader(kHeader.data(), kHeader.size());
  for (const string& message : messages) {
    recording->append(kBinaryData, message.data(), message.size());
    if (random.below(flushEvery) == 0) CHECK(recorded.recorder.flushAll(false, 10000));
  }
  recorded.recorder.close(recording);
  const RecorderEvent closed = recorded.wait(Kind::closed);
  size_t failures = 0;
  while (const auto event = recorded.take(Kind::failed)) {
    CHECK_EQ(event->error, FaultyDisk::error.load());
    CHECK_EQ(event->file, string(event->complete ? "a.cpt" : "a"));
    if (!event->complete) failures++;
  }
  CHECK(recorded.take(Kind::closed) == nullptr);
  recorded.waitUntilEmpty();
  CHECK_EQ(closed.bytes, folder.size("a"));
  if (closed.bytes == 0) {  // not even a header: no recording, and nothing of it stays
    CHECK(!folder.names().contains("a"));  // a sidecar that was lost before may; sweeps take it
    return {{}, {}, closed.complete, failures};
  }
  return {folder.read("a"), folder.read("a.cpt"), closed.complete, failures};
}

// The blocks must be the first of those that were appended.
std::vector<Block> checkPrefix(const string& file, const std::vector<string>& messages, bool ended) {
  std::vector<Block> blocks = readBlocks(file);
  CHECK_EQ(hasEnd(file), ended);
  const size_t data = blocks.size() - (blocks.empty() ? 0 : 1) - (ended ? 1 : 0);
  CHECK(data <= messages.size());
  for (size_t i = 0; i < data; i++) CHECK(blocks[i + 1].data == messages[i]);
  return blocks;
}

}  // namespace

TEST("[R35] fault 30: a disk that is full at any byte leaves every whole block before it, and an end block") {
  Random random(seed);
  std::vector<string> messages;
  size_t length = kBlockHeaderBytes + kHeader.size();
  for (size_t size : {1u, 15u, 16u, 17u, 64u, 33u, 2u}) {
    messages.push_back(random.bytes(size));
    length += kBlockHeaderBytes + size;
  }
  const size_t whole = length + kEndBlockBytes;
  for (const uint32_t clumsiness : {0u, 3u}) {
    for (const bool reserves : {true, false}) {
      for (size_t room = 0; room <= whole; room++) {
        context = "COUPLET_TEST_SEED=" + std::to_string(seed) + ", room " + std::to_string(room);
        FaultyDisk::reset();
        FaultyDisk::room = static_cast<int64_t>(room);
        FaultyDisk::clumsiness = clumsiness;
        FaultyDisk::reserves = reserves;
        const Outcome outcome = record(messages, random, 3);
        const std::vector<Block> blocks = checkPrefix(outcome.file, messages, outcome.complete);
        CHECK_EQ(outcome.failures, room == whole ? 0u : 1u);
        CHECK_EQ(outcome.file.empty(), room < kBlockHeaderBytes + kHeader.size());
        if (reserves) CHECK_EQ(outcome.complete, !outcome.file.empty());
        // Not a block fewer than there was room for.
        size_t expected = 0, end = kBlockHeaderBytes + kHeader.size();
        for (; end <= room; expected++) {
          if (expected == messages.size()) {
            expected++;
            break;
          }
          end += kBlockHeaderBytes + messages[expected].size();
        }
        CHECK_EQ(blocks.size() - (outcome.complete ? 1 : 0), expected);
        checkSidecar(outcome.sidecar, blocks, room == 0 || outcome.file.empty());
      }
    }
  }
}

TEST("[R35] fault 31: after an EIO that stays, the whole blocks stay, and the file says it has no end") {
  Random random(seed);
  const std::vector<string> messages = {random.bytes(100), random.bytes(70000), random.bytes(5)};
  for (int64_t room : {0, 60, 200, 40000, 70177, 70190}) {
    FaultyDisk::reset();
    FaultyDisk::room = room;
    FaultyDisk::error = EIO;
    FaultyDisk::forGood = true;
    const Outcome outcome = record(messages, random, 2);
    CHECK(!outcome.complete);
    CHECK_EQ(outcome.failures, 1u);
    CHECK(outcome.file.size() <= static_cast<size_t>(room));
    checkPrefix(outcome.file, messages, false);
  }
}

TEST("fault 31: a large backlog over many calls, short ones and interrupted ones, ends where the disk does") {
  Random random(seed);
  std::vector<string> messages;
  for (int i = 0; i < 300; i++) messages.push_back(random.bytes(1 + random.below(60000)));
  for (int round = 0; round < 4; round++) {
    FaultyDisk::reset();
    FaultyDisk::clumsiness = 3;
    if (round != 0) FaultyDisk::room = static_cast<int64_t>(1 + random.below(8'000'000));
    const Outcome outcome = record(messages, random, 40);
    CHECK(outcome.complete);
    checkSidecar(outcome.sidecar, checkPrefix(outcome.file, messages, true));
  }
}

TEST("[M8] a sidecar that fails is cut and told of, and the recording goes on without it") {
  Random random(seed);
  const std::vector<string> messages(20, "some data");
  for (int64_t room = 0; room < 24 * 12; room += 7) {
    FaultyDisk::reset();
    FaultyDisk::sidecarRoom = room;
    const Outcome outcome = record(messages, random, 2);
    CHECK(outcome.complete);
    CHECK_EQ(outcome.failures, 0u);
    CHECK_EQ(outcome.sidecar.size(), static_cast<size_t>(room / 24 * 24));
    const std::vector<Block> blocks = checkPrefix(outcome.file, messages, true);
    CHECK_EQ(blocks.size(), messages.size() + 2);
    checkSidecar(outcome.sidecar, blocks, true);
  }
}

TEST("a sync that fails ends the recording, once, with what was written") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  // Nothing but the failure makes the writer look at the file again.
  recorded.recorder.configure({.flushMs = 3600000, .fsyncMs = 3600000});
  Recording* recording = recorded.open(folder, "a", {.strict = true});
  recording->writeHeader(kHeader.data(), kHeader.size());
  recorded.recorder.sync(recording);
  recorded.wait(Kind::durable);
  FaultyDisk::syncError = EIO;
  CHECK(recording->append(0, "x", 1));
  recorded.recorder.sync(recording);
  const RecorderEvent failed = recorded.wait(Kind::failed);
  CHECK_EQ(failed.error, EIO);
  CHECK_EQ(failed.file, string("a"));
  CHECK(!recorded.wait(Kind::closed).complete);
  CHECK(!recording->append(0, "y", 1));
  recorded.recorder.close(recording);
  CHECK(recorded.take(Kind::durable) == nullptr);
  CHECK(recorded.take(Kind::failed) == nullptr);
  CHECK(recorded.take(Kind::closed) == nullptr);
  CHECK(hasEnd(folder.read("a")));
  CHECK_EQ(recorded.recorder.statistics().openFiles, 0u);
  CHECK(recorded.recorder.statistics().failures.at(EIO) >= 1);
}

TEST("lines of text on a full disk end with the last whole line") {
  FaultyDisk::reset();
  FaultyDisk::room = 20;
  TemporaryFolder folder;
  Recorded recorded;
  Recording* recording = recorded.open(folder, "a.jsonl", {.lines = true});
  for (int i = 0; i < 5; i++) CHECK(recording->append(0, "{\"a\":1}\n", 8));
  recorded.recorder.close(recording);
  CHECK(recorded.wait(Kind::closed).complete);
  CHECK_EQ(recorded.wait(Kind::failed).error, ENOSPC);
  CHECK_EQ(folder.read("a.jsonl"), string("{\"a\":1}\n{\"a\":1}\n"));
}

TEST("[R36] fault 32: a strict recording on a disk that stands still is held back, and goes on when it moves") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  recorded.recorder.configure({.flushMs = 5,
                               .maxQueueBytes = 1 << 20,
                               .lowQueueBytes = 1 << 19,
                               .maxFileQueueBytes = 1 << 18});
  FaultyDisk::gate(true);
  Recording* one = recorded.open(folder, "one", {.strict = true});
  std::vector<Recording*> others;
  for (int i = 0; i < 8; i++) others.push_back(recorded.open(folder, std::to_string(i), {.strict = true}));
  const string data(10000, 'x');
  size_t appended = 0;
  one->writeHeader("{}", 2);
  while (!one->holdsBack()) {
    CHECK(one->append(0, data.data(), data.size()));
    CHECK(++appended < 1000);
  }
  CHECK_EQ(recorded.wait(Kind::holdBack).handle, one->handle());
  CHECK(appended * 10016 <= (1 << 18) + 20000);
  CHECK(!others[0]->holdsBack());
  // A few more fill what all share.
  size_t filled = 0;
  for (Recording* other : others) other->writeHeader("{}", 2);
  while (!others[7]->holdsBack()) CHECK(others[filled++ % 7]->append(0, data.data(), data.size()) && filled < 1000);
  CHECK_EQ(recorded.wait(Kind::holdBack, 0).handle, 0u);
  CHECK(recorded.recorder.statistics().queueBytes > 1 << 20);
  CHECK(recorded.recorder.statistics().queueBytes < (1 << 20) + 20000);
  CHECK(recorded.take(Kind::goOn) == nullptr);
  FaultyDisk::gate(false);
  recorded.wait(Kind::goOn, one->handle());
  recorded.wait(Kind::goOn, 0);
  CHECK(!one->holdsBack());
  CHECK(recorded.take(Kind::failed) == nullptr);
  for (Recording* other : others) recorded.recorder.close(other);
  recorded.recorder.close(one);
  CHECK(recorded.recorder.flushAll(true, 60000));
  CHECK_EQ(readBlocks(folder.read("one")).size(), appended + 2);
}

TEST("a hold-back that has no reason any more when it is told is taken back at once") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  // The low mark above the high one stands for a writer that empties the queue in that very moment.
  recorded.recorder.configure({.maxQueueBytes = 1000, .lowQueueBytes = 100000});
  FaultyDisk::gate(true);
  Recording* recording = recorded.open(folder, "a", {.strict = true});
  const string data(2000, 'x');
  CHECK(recording->writeHeader(data.data(), data.size()));
  CHECK(!recording->holdsBack());
  CHECK(recorded.take(Kind::holdBack, 0) != nullptr);
  CHECK(recorded.take(Kind::goOn, 0) != nullptr);
  FaultyDisk::gate(false);
  recorded.recorder.close(recording);
}

TEST("[R36] fault 32: a best-effort recording on a disk that stands still ends there, with an end block") {
  for (const bool inPieces : {false, true}) {
    FaultyDisk::reset();
    TemporaryFolder folder;
    Recorded recorded;
    recorded.recorder.configure({.flushMs = 5, .maxQueueBytes = 1 << 20, .maxFileQueueBytes = 1 << 19});
    FaultyDisk::gate(true);
    Recording* recording = recorded.open(folder, "a");
    recording->writeHeader("{}", 2);
    const string data(10000, 'x');
    size_t appended = 0;
    if (inPieces) {
      // A message is never cut: it is the next one that is too much.
      recording->begin(0, 0);
      for (int i = 0; i < 100; i++) CHECK(recording->more(0, data.data(), data.size()));
      CHECK(recording->end(0));
      appended = 1;
      CHECK(!recording->append(0, "x", 1));
    } else {
      while (recording->append(0, data.data(), data.size())) CHECK(++appended < 1000);
    }
    CHECK(!recording->holdsBack());
    const RecorderEvent failed = recorded.wait(Kind::failed);
    CHECK_EQ(failed.error, ENOBUFS);
    CHECK(!recording->append(0, "x", 1));
    CHECK(recorded.recorder.statistics().queueBytes < (inPieces ? 1 << 20 : 1 << 19) + 20000);
    FaultyDisk::gate(false);
    CHECK(recorded.wait(Kind::closed).complete);
    recorded.recorder.close(recording);
    const string file = folder.read("a");
    CHECK(hasEnd(file));
    CHECK_EQ(readBlocks(file).size(), appended + 2);
    CHECK(recorded.take(Kind::failed) == nullptr);
    CHECK_EQ(recorded.recorder.statistics().queueBytes, 0u);
  }
}

TEST("strict recordings that are held back and go on a thousand times never wait for good") {
  FaultyDisk::reset();
  Random random(seed);
  TemporaryFolder folder;
  Recorded recorded;
  recorded.recorder.configure({.flushBytes = 500,
                               .flushMs = 1,
                               .maxQueueBytes = 3000,
                               .lowQueueBytes = 2500,
                               .maxFileQueueBytes = 1500});
  std::vector<Recording*> all;
  for (int i = 0; i < 4; i++) {
    all.push_back(recorded.open(folder, std::to_string(i), {.strict = true}));
    all.back()->writeHeader("{}", 2);
  }
  // What the listener believes, by events alone.
  std::map<uint32_t, bool> held;
  size_t changes = 0;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (changes < 1000) {
    CHECK(std::chrono::steady_clock::now() < deadline);
    recorded.recorder.dispatch([&](const RecorderEvent& event) {
      if (event.kind != Kind::holdBack && event.kind != Kind::goOn) return;
      CHECK(held[event.handle] != (event.kind == Kind::holdBack));  // in turns, as they happened
      held[event.handle] = event.kind == Kind::holdBack;
      changes++;
    });
    for (Recording* recording : all) {
      if (held[0] || held[recording->handle()]) continue;
      const string data = random.bytes(1 + random.below(600));
      CHECK(recording->append(0, data.data(), data.size()));
    }
  }
  for (Recording* recording : all) recorded.recorder.close(recording);
}

TEST("[R36] closing what waits for a slow disk takes no time, and loses nothing") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  FaultyDisk::gate(true);
  Recording* recording = recorded.open(folder, "a");
  recording->writeHeader("{}", 2);
  for (int i = 0; i < 100; i++) CHECK(recording->append(0, "abc", 3));
  recorded.recorder.close(recording);
  CHECK(!recorded.recorder.flushAll(true, 20));  // it says so when the time is up
  CHECK(recorded.take(Kind::closed) == nullptr);
  FaultyDisk::gate(false);
  CHECK(recorded.recorder.flushAll(true, 60000));
  CHECK(recorded.wait(Kind::closed).complete);
  CHECK_EQ(readBlocks(folder.read("a")).size(), 102u);
}
