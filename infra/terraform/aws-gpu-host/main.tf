# One GPU host with a worker: no port open, no SSH (Session Manager), no public address needed, disk encrypted.
terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }
}

variable "subnet_id" {
  type        = string
  description = "Private subnet with a way out to the Prefect server, MLflow and the bucket."
}

variable "ami_id" {
  type        = string
  description = "Image with NVIDIA's driver and Trimtab in /opt/trimtab (systemd/ has the unit that it starts)."
}

variable "bucket" {
  type        = string
  description = "Bucket that runs read and write."
}

variable "instance_type" {
  type        = string
  default     = "g6.xlarge"
  description = "Type of the instance, with GPUs."
}

variable "disk_gib" {
  type    = number
  default = 200
  validation {
    condition     = var.disk_gib >= 100
    error_message = "disk_gib must be 100 or more: the driver, CUDA and one data set need that."
  }
}

data "aws_subnet" "this" {
  id = var.subnet_id
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

# The rights that blocks/STORES.md lists.
data "aws_iam_policy_document" "bucket" {
  statement {
    actions   = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
    resources = ["arn:aws:s3:::${var.bucket}/*"]
  }
  statement {
    actions   = ["s3:ListBucket", "s3:ListBucketMultipartUploads"]
    resources = ["arn:aws:s3:::${var.bucket}"]
  }
}

resource "aws_iam_role" "worker" {
  name_prefix        = "trimtab-worker-"
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

resource "aws_iam_role_policy" "bucket" {
  role   = aws_iam_role.worker.id
  policy = data.aws_iam_policy_document.bucket.json
}

resource "aws_iam_role_policy_attachment" "session" {
  role       = aws_iam_role.worker.name
  policy_arn = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
}

resource "aws_iam_instance_profile" "worker" {
  name_prefix = "trimtab-worker-"
  role        = aws_iam_role.worker.name
}

resource "aws_security_group" "worker" {
  name_prefix = "trimtab-worker-"
  description = "A Trimtab worker: nothing in, everything out"
  vpc_id      = data.aws_subnet.this.vpc_id

  egress {
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_instance" "worker" {
  ami                    = var.ami_id
  instance_type          = var.instance_type
  subnet_id              = var.subnet_id
  iam_instance_profile   = aws_iam_instance_profile.worker.name
  vpc_security_group_ids = [aws_security_group.worker.id]

  # One hop: containers do not get the role's credentials.
  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    volume_type = "gp3"
    volume_size = var.disk_gib
    encrypted   = true
  }

  tags = { Name = "trimtab-worker" }
}

output "instance_id" {
  value       = aws_instance.worker.id
  description = "For: aws ssm start-session --target ..."
}
