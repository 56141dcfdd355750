//! Takes fixed-size pieces off the front of bytes that may end too early.

/// What is left to be read.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl Cursor<'_> {
    /// The next `N` bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or_else(|| "it ends too early".to_owned())?;
        self.0 = rest;
        Ok(*head)
    }
}
