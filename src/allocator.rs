//! The allocator of both processes: jemalloc with one arena for every two cores, which zeroes memory by writing zeros.

use std::alloc::{GlobalAlloc, Layout};

use tikv_jemallocator::Jemalloc;

/// What jemalloc reads as it starts; `_RJEM_MALLOC_CONF` of the environment is heard after it.
///
/// A buffer is filled by one thread and dropped by another, and goes back to the arena that it came from: of four arenas a core, as is usual, some hold
/// pages that nobody uses while others ask the kernel for more. Threads keep what is small for themselves, so that they seldom meet in an arena.
// SAFETY: jemalloc declares this name as a pointer to a text that ends in zero, and never writes to it.
#[unsafe(export_name = "_rjem_malloc_conf")]
static OPTIONS: &[u8; 18] = b"narenas_ratio:0.5\0";

/// Larger memory is left to the kernel to zero: not all of it may ever be touched.
const LARGE: usize = 64 << 20;

/// Asked for zeroed memory of some size, jemalloc gives pages that it holds back to the kernel, which hands out fresh ones at the first touch of each:
/// tensors, planes of pictures and read buffers, made and dropped again and again, cost a tenth of an image job in page faults. Writing zeros
/// into what is there costs a fraction of that.
#[derive(Debug)]
pub(crate) struct Allocator;

// SAFETY: every call goes to jemalloc with what it was called with; what is zeroed is the whole of what was just allocated.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { Jemalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { Jemalloc.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LARGE {
            // SAFETY: the caller's.
            return unsafe { Jemalloc.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's, and where there is memory, there are `size` bytes of it.
        unsafe {
            let memory = Jemalloc.alloc(layout);
            if !memory.is_null() {
                memory.write_bytes(0, layout.size());
            }
            memory
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { Jemalloc.realloc(memory, layout, size) }
    }
}
