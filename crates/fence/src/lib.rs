//! An allocator for tests. Each block ends where a page begins that may be neither read nor
//! written, so that the first access beyond the block's end is a segmentation fault.
//!
//! Kernels of matrix products read whole steps. Where a matrix ends within a step they read what
//! lies behind it, which usually belongs to the process and is multiplied by zero. The fence makes
//! that fault certain instead of rare.
//!
//! This is the only crate of the workspace with unsafe code, and no program that people install
//! depends on it.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
};

/// Bytes from which a block gets a fence. The kernel allows some 65,000 maps, two for each fence.
const SMALLEST: usize = 256;

/// See the crate. Declare it with `#[global_allocator]`.
pub struct Fence;

fn page_size() -> usize {
    // SAFETY: it reads a constant of the system.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Bytes before the fence: the block, with its end at the end of a page.
fn mapped(size: usize) -> usize {
    size.next_multiple_of(page_size())
}

fn is_fenced(layout: &Layout) -> bool {
    layout.size() >= SMALLEST && layout.align() <= page_size()
}

/// The block's size. It ends at the fence exactly unless its alignment forbids that.
fn aligned_size(layout: &Layout) -> usize {
    layout.size().next_multiple_of(layout.align())
}

// SAFETY: a fenced block is a fresh mapping of at least the layout's size, and starts at a multiple
// of its alignment: the mapping's end is a multiple of the page size, the aligned size one of the
// alignment. Whether a block is fenced depends on its layout alone, so `dealloc` undoes what `alloc`
// did. Nothing here allocates.
unsafe impl GlobalAlloc for Fence {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_fenced(&layout) {
            // SAFETY: the caller's layout, as it is.
            return unsafe { System.alloc(layout) };
        }
        let (size, page) = (aligned_size(&layout), page_size());
        let mapped = mapped(size);
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: an anonymous mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { libc::mmap(ptr::null_mut(), mapped + page, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return ptr::null_mut();
        }
        // SAFETY: the last page of the mapping made above.
        let fence = unsafe { start.cast::<u8>().add(mapped) };
        // SAFETY: as above; nothing refers to that page.
        if unsafe { libc::mprotect(fence.cast(), page, libc::PROT_NONE) } != 0 {
            // SAFETY: the mapping made above.
            unsafe { libc::munmap(start, mapped + page) };
            return ptr::null_mut();
        }
        // SAFETY: size <= mapped, so this lies in the mapping.
        unsafe { fence.sub(size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !is_fenced(&layout) {
            // SAFETY: `alloc` took it from there.
            return unsafe { System.dealloc(block, layout) };
        }
        let size = aligned_size(&layout);
        let mapped = mapped(size);
        // SAFETY: the mapping that `alloc` made; its start was a multiple of the page size.
        unsafe { libc::munmap(block.add(size).sub(mapped).cast(), mapped + page_size()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_ends_at_the_fence_and_is_aligned() {
        for (size, align) in [(256, 1), (300, 4), (4096, 64), (5000, 128), (70_000, 4096)] {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: the layout's size is not zero; the block is freed with the same layout.
            unsafe {
                let block = Fence.alloc(layout);
                assert_eq!(block as usize % align, 0);
                let end = block as usize + size;
                assert!(end.next_multiple_of(page_size()) - end < align.max(1));
                block.write_bytes(1, size);
                Fence.dealloc(block, layout);
            }
        }
    }
}
