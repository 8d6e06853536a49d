//! Counters of the kernel programs: indexes into the per-CPU array [`COUNTERS`](crate::map::COUNTERS).

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $index:literal, $name:literal;)*) => {
        /// What the kernel programs count apart from connections.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Counter { $($(#[$doc])* $variant = $index,)* }

        impl Counter {
            /// Every counter, in the order of its index.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Word for metrics and tables.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

counters! {
    /// Connections taken into the direct lane.
    Direct = 0, "direct";
    /// Connections taken into the proxy lane.
    Proxy = 1, "proxy";
    /// Connections of a scope that go to no service.
    Untouched = 2, "untouched";
    /// Connections to an excluded port or network.
    Excluded = 3, "excluded";
    /// Connections that took the direct lane because no worker was alive.
    FailOpen = 4, "fail_open";
    /// Refused: the service has no usable endpoint.
    RefusedNoEndpoint = 5, "refused_no_endpoint";
    /// Refused: no worker was alive and the service fails closed.
    RefusedFailClosed = 6, "refused_fail_closed";
    /// Passed untouched: the map of original destinations is full.
    PassedMapFull = 7, "passed_map_full";
    /// Passed untouched: no memory for the facts of the socket.
    PassedNoMemory = 8, "passed_no_memory";
    /// Passed untouched: a map named something that another map lacks. Never seen unless Weir has a bug.
    PassedInconsistent = 9, "passed_inconsistent";
    /// Redirected connections whose original destination could not be stored; the worker closes them.
    LostOriginalDst = 10, "lost_original_dst";
    /// Records of closed connections that found the ring buffer full.
    RecordsDropped = 11, "records_dropped";
    /// Totals that found their map full.
    TotalsDropped = 12, "totals_dropped";
    /// The application's own address could not be kept (bpf_bind failed).
    SourceNotKept = 13, "source_not_kept";
    /// Passed untouched: the socket is bound to a device (SO_BINDTODEVICE) from which the target may not be reachable.
    PassedBoundToDevice = 14, "passed_bound_to_device";
    /// Connections to applications whose client getpeername() does not show: no room for it in a map or with the socket.
    ClientNotShown = 15, "client_not_shown";
    /// Connections taken into the proxy lane from a namespace without listeners, by the node listener.
    Node = 16, "node";
}

/// Length of the array.
pub const COUNTER_COUNT: u32 = 17;

const _: () = assert!(Counter::ALL.len() == COUNTER_COUNT as usize);
