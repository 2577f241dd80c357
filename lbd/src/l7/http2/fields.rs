//! Fields between the decisions, which are the same for each protocol, and the crates that know HTTP/2's form of them.

use http::HeaderMap;
use http::header::{HOST, HeaderName, HeaderValue};
use lbd_core::http::framing::Field;
use lbd_core::http::pass_on::Fields;

/// Fields that are to be sent. `Host` is none of HTTP/2's and put aside.
#[derive(Debug, Default)]
pub(in crate::l7) struct Map {
    fields: HeaderMap,
    host: Option<HeaderValue>,
}

impl Map {
    /// Without `Host`.
    pub(in crate::l7) fn into_inner(self) -> HeaderMap {
        self.fields
    }

    /// What was put aside.
    pub(in crate::l7) fn take_host(&mut self) -> Option<HeaderValue> {
        self.host.take()
    }
}

impl Fields for Map {
    fn add(&mut self, name: &[u8], value: &[u8]) {
        // What has come through the strict reading of either protocol, or from the configuration, is a name and a value. Names become
        // lower case here.
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
            return;
        };
        if name == HOST {
            self.host = Some(value);
            return;
        }
        // As many as a head may have always fit.
        drop(self.fields.try_append(name, value));
    }
}

/// The fields that have come, in the order in which their names came first.
pub(in crate::l7) fn fields(map: &HeaderMap) -> impl Iterator<Item = Field<'_>> {
    map.iter().map(|(name, value)| Field { name: name.as_str().as_bytes(), value: value.as_bytes() })
}

/// About as many bytes as a head has in HTTP/1.
pub(in crate::l7) fn size(map: &HeaderMap) -> usize {
    32 + map.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>()
}
