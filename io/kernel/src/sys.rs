//! System calls that no library wraps.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Binds a packet socket to an interface (packet(7)); frames of all protocols come in by it.
pub(crate) fn bind_packet(socket: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
    // SAFETY: a sockaddr_ll is made of numbers, for each of which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = i32::try_from(interface).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel only reads the address, of which we say the length, and the descriptor is open.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has a socket take only what a filter lets through (socket(7), SO_ATTACH_FILTER).
pub(crate) fn attach_filter(socket: BorrowedFd<'_>, filter: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the kernel only reads the program and the steps it points to, of which we say the number, and both live
    // until the call returns.
    let set = unsafe {
        let program = (&raw const program).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program, size)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets an option of a socket that is a number.
pub(crate) fn set_int(socket: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    let size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel only reads the number, of which we say the size, and the descriptor is open.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits until all packets that the kernel was forwarding are through, but for those that lie in queues: forwarding reads
/// under RCU, and `MEMBARRIER_CMD_GLOBAL` is `synchronize_rcu` (kernel/sched/membarrier.c; with one processor nothing, with
/// `nohz_full` refused). Takes 5 to 20 ms, more on a busy machine.
pub(crate) fn wait_for_packets() {
    // SAFETY: it takes two numbers and touches no memory.
    unsafe {
        libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0);
    }
}

/// Has all threads allocate from one arena (mallopt(3), `M_ARENA_MAX`).
pub(crate) fn use_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes two numbers, and only changes how the allocator goes on.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives memory that the allocator holds and nobody uses back to the kernel (malloc_trim(3)).
pub(crate) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and only touches what the allocator itself keeps free, under its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
