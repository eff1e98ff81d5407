// The opener: makes recordings' files, so that neither the event loop nor a writer waits for a folder that hangs.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "recorder.h"

namespace couplet {

// An open folder: one for all recordings in it, as long as there are any, or it is what its path last led to.
struct Folder {
  explicit Folder(int fd) : fd(fd) {}
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const int fd;
  // Files made in it so far, and how many of these were there when it was last synced.
  std::atomic<uint64_t> made{0};
  std::atomic<uint64_t> synced{0};
};

// One thread for all lanes. Not a lane's writer or syncer: a file that takes long to be made would delay the writing
// and syncing of those that are open. Not one for each lane: it has little to do, and what it alone uses, the folders,
// needs no lock. A recording made behind one that hangs waits with it, as its writer would a moment later.
class Opener {
 public:
  explicit Opener(Recorder& recorder);
  // When every file that was ordered is made, or has failed.
  ~Opener();

  // On the event loop's thread. The recording comes to its lane when its files are there, or cannot be.
  void order(Recording& recording, std::string folder);

 private:
  struct Order {
    Recording* recording;
    std::string folder;
  };

  void run();
  int openFiles(Recording& recording, const std::string& path);
  std::shared_ptr<Folder> openFolder(const std::string& path, int& error);
  int openAt(int folder, const std::string& name, int flags, int& error) const;
  int makeFile(const Folder& folder, const std::string& name, int& error) const;

  Recorder& recorder_;
  const Disk& disk_;
  std::map<std::string, std::shared_ptr<Folder>> folders_;  // the opener's thread's

  std::mutex mutex_;
  std::condition_variable wakeUp_;
  std::deque<Order> orders_;
  bool stop_ = false;

  std::thread thread_;
};

// Removes a file that this recorder made, if that is still what the name stands for.
void removeOurs(const Folder& folder, const std::string& name, int fd);

}  // namespace couplet
