// Whole-file locks by which recordings that are being written are left alone by all else that works on them: salvage,
// retention, indexing, in this process or another. A lock belongs to the open file description ("OFD"), not to the
// process: another descriptor of the same process meets it too, closing another one does not drop it, and it is gone
// with the last descriptor of its own, thus with the process however that ends.
#pragma once

namespace couplet {

// Locks a file without waiting: 0, or an errno, EAGAIN where another holds a lock that this one does not go with.
// Exclusive needs a descriptor open for writing, shared one open for reading; else EBADF. On any thread.
int lockFile(int fd, bool exclusive);

// Whether that errno says that the kernel or the file system knows no such locks.
bool isLockUnsupported(int error);

}  // namespace couplet
