"""Object storage that speaks S3: AWS, MinIO, R2, Ceph."""
