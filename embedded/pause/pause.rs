//! The first process of every pod: it holds the pod's namespaces, buries what is orphaned to it and leaves when
//! told to. Without libc or a Rust runtime: a few kilobytes, a page or two of memory a pod.
//!
//! All signals stay blocked and are fetched by `rt_sigtimedwait`. A blocked signal is queued for the first process
//! of a namespace even where its default action would be ignored, so no handler is needed.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SIGINT: usize = 2;
const SIGTERM: usize = 15;
const SIGCHLD: usize = 17;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;
/// Bytes of the kernel's signal set.
const SIGSET_BYTES: usize = 8;

#[cfg(target_arch = "x86_64")]
mod arch {
    pub const WAIT4: usize = 61;
    pub const EXIT_GROUP: usize = 231;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const RT_SIGTIMEDWAIT: usize = 128;
}

#[cfg(target_arch = "aarch64")]
mod arch {
    pub const WAIT4: usize = 260;
    pub const EXIT_GROUP: usize = 94;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
}

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor %ebp, %ebp", "and $-16, %rsp", "call pause_main", options(att_syntax));

#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "bl pause_main");

/// A system call of up to four arguments.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: usize, args: [usize; 4]) -> isize {
    let result: isize;
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") args[0], in("rsi") args[1],
            in("rdx") args[2], in("r10") args[3], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// A system call of up to four arguments.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: usize, args: [usize; 4]) -> isize {
    let result: isize;
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") args[0] as isize => result, in("x1") args[1],
            in("x2") args[2], in("x3") args[3], options(nostack));
    }
    result
}

#[unsafe(no_mangle)]
extern "C" fn pause_main() -> ! {
    let all: u64 = !0;
    let set = &raw const all as usize;
    unsafe { syscall(arch::RT_SIGPROCMASK, [SIG_BLOCK, set, 0, SIGSET_BYTES]) };
    loop {
        match unsafe { syscall(arch::RT_SIGTIMEDWAIT, [set, 0, 0, SIGSET_BYTES]) } as usize {
            SIGCHLD => reap(),
            SIGINT | SIGTERM => exit(0),
            // Another signal, or an interruption by a debugger: neither means anything here.
            _ => {}
        }
    }
}

/// Several children may hide behind one SIGCHLD.
fn reap() {
    const ANY_CHILD: usize = usize::MAX;
    while unsafe { syscall(arch::WAIT4, [ANY_CHILD, 0, WNOHANG, 0]) } > 0 {}
}

fn exit(code: usize) -> ! {
    loop {
        unsafe { syscall(arch::EXIT_GROUP, [code, 0, 0, 0]) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(2)
}
