//! System calls that no library wraps: programs at tcx (Linux 6.6, kernel/bpf/tcx.c), by libbpf.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use libbpf_rs::libbpf_sys::{
    BPF_F_BEFORE, BPF_F_REPLACE, BPF_TCX_INGRESS, bpf_prog_attach_opts, bpf_prog_detach_opts,
    bpf_prog_get_info_by_fd, bpf_prog_info, bpf_prog_query_opts,
};

/// The most programs that a link has (`BPF_MPROG_MAX`).
const MOST: u32 = 64;

/// The ids of the programs at a link's ingress, in their order.
///
/// # Errors
/// When the kernel has no tcx, or no such link.
pub(crate) fn at(link: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MOST as usize];
    // SAFETY: the struct is made of numbers and pointers, for each of which zero is a value.
    let mut options: bpf_prog_query_opts = unsafe { zeroed() };
    options.sz = size_of::<bpf_prog_query_opts>() as _;
    options.prog_ids = ids.as_mut_ptr();
    options.__bindgen_anon_1.count = MOST;
    // SAFETY: the kernel writes at most so many ids as we say that there is room for, and both live until the call returns.
    let asked = unsafe { bpf_prog_query_opts(link.cast_signed(), BPF_TCX_INGRESS, &raw mut options) };
    match done(asked) {
        // Nobody has put one there yet.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => return Ok(Vec::new()),
        other => other?,
    }
    // SAFETY: both halves of the union are the same number.
    let count = unsafe { options.__bindgen_anon_1.count };
    Ok(ids.into_iter().take(count as usize).collect())
}

/// Puts a program before all others at a link's ingress, and waits until no packet passes there without it.
pub(crate) fn put_first(program: BorrowedFd<'_>, link: u32) -> io::Result<()> {
    put(program, link, BPF_F_BEFORE, 0)
}

/// Puts a program in the place of another, in one step.
pub(crate) fn replace(program: BorrowedFd<'_>, link: u32, before: BorrowedFd<'_>) -> io::Result<()> {
    put(program, link, BPF_F_REPLACE, before.as_raw_fd())
}

fn put(program: BorrowedFd<'_>, link: u32, flags: u32, before: RawFd) -> io::Result<()> {
    // SAFETY: the struct is made of numbers, for each of which zero is a value.
    let mut options: bpf_prog_attach_opts = unsafe { zeroed() };
    options.sz = size_of::<bpf_prog_attach_opts>() as _;
    options.flags = flags;
    options.__bindgen_anon_1.replace_prog_fd = before;
    // SAFETY: the kernel only reads the options, of which we say the size, and the descriptors are open.
    done(unsafe {
        bpf_prog_attach_opts(program.as_raw_fd(), link.cast_signed(), BPF_TCX_INGRESS, &raw const options)
    })
}

/// Takes a program from a link's ingress.
pub(crate) fn take(program: BorrowedFd<'_>, link: u32) -> io::Result<()> {
    let (program, link) = (program.as_raw_fd(), link.cast_signed());
    // SAFETY: the descriptor is open, and there are no options.
    done(unsafe { bpf_prog_detach_opts(program, link, BPF_TCX_INGRESS, ptr::null()) })
}

/// Whether a program bears a name.
pub(crate) fn is_called(program: BorrowedFd<'_>, name: &str) -> bool {
    // SAFETY: the struct is made of numbers and pointers, for each of which zero is a value.
    let mut info: bpf_prog_info = unsafe { zeroed() };
    let mut length = size_of::<bpf_prog_info>() as u32;
    // SAFETY: the kernel writes at most so many bytes as we say, and nothing where the struct points nowhere.
    let asked = unsafe { bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut length) };
    let found = info.name.iter().flat_map(|letter| letter.to_ne_bytes()).take_while(|letter| *letter != 0);
    asked == 0 && found.eq(name.bytes())
}

/// libbpf gives back what went wrong as a negative number.
fn done(answer: i32) -> io::Result<()> {
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(()) }
}
