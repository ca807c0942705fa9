//! System calls that no library wraps.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};

use tartan_model::IfName;

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

/// Has a link not merge packets that come in by it (ethtool(8), generic receive offload). The socket, of whatever kind, tells
/// the network namespace.
pub(crate) fn merge_nothing(socket: BorrowedFd<'_>, link: &IfName) -> io::Result<()> {
    // linux/sockios.h, linux/ethtool.h.
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    const ETHTOOL_SGRO: u32 = 0x2c;
    // struct ethtool_value: what to do, and with what.
    let mut value = [ETHTOOL_SGRO, 0];
    // SAFETY: an ifreq is made of numbers and pointers, for each of which zero is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    let name = link.as_str().bytes().map(|letter| libc::c_char::from_ne_bytes([letter]));
    request.ifr_name.iter_mut().zip(name).for_each(|(to, from)| *to = from);
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: the name ends with a zero, as that of a link is shorter than its place; the kernel reads and writes no more than the
    // sizes of both, and they live until the call returns.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
