#include "file_lock.h"

#include <fcntl.h>

#include <cerrno>

namespace couplet {

int lockFile(int fd, bool exclusive) {
  struct flock lock = {};  // from the start, to the end wherever that will be; l_pid must be 0
  lock.l_type = exclusive ? F_WRLCK : F_RDLCK;
  lock.l_whence = SEEK_SET;
  int result;
  do {
    result = ::fcntl(fd, F_OFD_SETLK, &lock);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return 0;
  return errno == EACCES ? EAGAIN : errno;  // POSIX lets a system say either
}

bool isLockUnsupported(int error) { return error == EINVAL || error == ENOSYS || error == EOPNOTSUPP; }

}  // namespace couplet
