//! librdkafka, loaded at run time from the confluent-kafka wheel.
