//! The buffers of a worker: a connection holds one only while bytes are under way in it.

use std::cell::RefCell;
use std::rc::Rc;

use super::splice::Pipes;

/// The size of a buffer in bytes, and so the most that a connection holds in one direction: a body of 64 KiB, as large as the kernel makes packets
/// of bulk and as servers make their own pieces, with the head before it. Measured beside 64 KiB, which take one more read and one more write for
/// such an answer: a quarter less processor time.
pub(crate) const BUFFER_BYTES: usize = 68 * 1024;

/// Free buffers kept for the next use; more are given back to the allocator. Buffers in use are bounded by two for each
/// connection, which `max_connections` bounds.
const FREE_MAX: usize = 128;

/// Free buffers, the last used one first because it is still in the processor's cache.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    free: RefCell<Vec<Box<[u8]>>>,
    pipes: Rc<Pipes>,
}

impl BufferPool {
    /// A buffer, which goes back when it is dropped.
    pub(crate) fn take(self: &Rc<Self>) -> Buffer {
        let bytes = self.free.borrow_mut().pop().unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
        Buffer { bytes, pool: Rc::clone(self) }
    }

    /// The worker's pipes, for what need not be copied.
    pub(super) const fn pipes(&self) -> &Rc<Pipes> {
        &self.pipes
    }
}

/// A buffer in use.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    pool: Rc<BufferPool>,
}

impl Buffer {
    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its bytes, to be filled.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = self.pool.free.borrow_mut();
        if free.len() < FREE_MAX {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_the_pool_is_bounded() {
        let pool = Rc::new(BufferPool::default());
        let mut buffer = pool.take();
        buffer.bytes_mut()[0] = 7;
        drop(buffer);
        assert_eq!(pool.take().bytes()[0], 7, "the last used buffer is used again");
        let many: Vec<Buffer> = (0..FREE_MAX + 10).map(|_| pool.take()).collect();
        drop(many);
        assert_eq!(pool.free.borrow().len(), FREE_MAX);
    }
}
